"""Supervised fine-tuning: cross-entropy on the response tokens and the closing end-of-text."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from smelt.train.batches import Batch
from smelt.train.forward import packed_logits


def sft(model: PreTrainedModel, batch: Batch) -> Float[Tensor, ""]:
    """Mean cross-entropy over the response tokens of the whole batch (so that batch shape and
    accumulation do not change the weight of a token)."""
    labels = batch.labels.masked_fill(~batch.response, -100)
    logits = packed_logits(model, batch)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
