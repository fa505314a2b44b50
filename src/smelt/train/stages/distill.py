"""Train on text and on other models' distributions at once: the stage that fusion runs."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from smelt.core import registry
from smelt.train.batches import Batch
from smelt.train.forward import packed_logits


def distill(
    model: PreTrainedModel,
    batch: Batch,
    *,
    loss: str = "lumped_kl",
    loss_options: dict[str, Any] | None = None,
    ce_weight: float = 0.9,
) -> Float[Tensor, ""]:
    """ce_weight * cross-entropy on the response + (1 - ce_weight) * fusion loss at the anchors.

    loss: plug-in of kind loss, with its keywords in loss_options; ce_weight 0.9 is FuseLLM's
    lambda (arXiv:2401.10491). A batch without targets learns from its text alone.
    """
    logits = packed_logits(model, batch)
    labels = batch.labels.masked_fill(~batch.response, -100)
    plain = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    if batch.target is None or len(batch.target) == 0:
        return plain
    function = registry.load("loss", loss)
    fused: Tensor = function(logits.flatten(0, 1), batch.target, **(loss_options or {}))
    return ce_weight * plain + (1 - ce_weight) * fused
