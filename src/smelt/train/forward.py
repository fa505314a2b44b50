"""One forward pass over packed documents that cannot see each other, and its cross-entropy."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from smelt.train.batches import Batch


def packed_logits(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "rows time vocab"]:
    """Logits of a packed batch in float32.

    Three conditions hold at once, else packed documents leak into each other (training.md 3):
    positions restart, no attention mask is given, and no cache is used.
    """
    output = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False)
    logits: Tensor = output.logits
    return logits.float()


def response_labels(batch: Batch) -> Int[Tensor, "rows time"]:
    """The labels of response tokens (of plain text: of all tokens), -100 elsewhere."""
    return batch.labels.masked_fill(~batch.response, -100)


def cross_entropy(
    logits: Float[Tensor, "rows time vocab"], labels: Int[Tensor, "rows time"]
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood in nats over the target tokens of the whole batch, so that the
    layout of a batch does not change the weight of a token."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
