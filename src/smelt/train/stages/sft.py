"""Supervised fine-tuning: cross-entropy on the response tokens and the closing end-of-text."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from smelt.train.batches import Batch
from smelt.train.forward import cross_entropy, packed_logits, response_labels


def sft(model: PreTrainedModel, batch: Batch) -> Float[Tensor, ""]:
    """Mean cross-entropy over the response tokens of a batch; plain text is all response."""
    return cross_entropy(packed_logits(model, batch), response_labels(batch))
