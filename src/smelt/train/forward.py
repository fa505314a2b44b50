"""One forward pass over packed documents that cannot see each other."""

from jaxtyping import Float
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
