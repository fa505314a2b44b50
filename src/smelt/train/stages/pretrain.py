"""Next-token prediction on packed documents; pairs may count their responses only."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from smelt.train.batches import Batch
from smelt.train.forward import packed_logits


def pretrain(model: PreTrainedModel, batch: Batch, *, mask_prompts: bool = True) -> Float[Tensor, ""]:
    """Mean cross-entropy over target tokens.

    mask_prompts: prompts of instruction-response pairs are read, not predicted (the tokens of a
    random problem cannot be predicted, so they would only add noise to the gradient).
    """
    labels = batch.labels.masked_fill(~batch.response, -100) if mask_prompts else batch.labels
    logits = packed_logits(model, batch)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
