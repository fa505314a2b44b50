"""Next-token prediction on packed documents; pairs may count their responses only."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from smelt.train.batches import Batch
from smelt.train.forward import cross_entropy, packed_logits, response_labels


def pretrain(
    model: PreTrainedModel, batch: Batch, *, mask_prompts: bool = True
) -> Float[Tensor, ""]:
    """Mean cross-entropy over target tokens.

    mask_prompts: prompts of instruction-response pairs are read, not predicted (the tokens of a
    random problem cannot be predicted, so they would only add noise to the gradient).
    """
    labels = response_labels(batch) if mask_prompts else batch.labels
    return cross_entropy(packed_logits(model, batch), labels)
