"""Student and target on the same events: named tokens one by one, the rest as one class."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from smelt.fuse.target import FusedTarget

# exp(-80) is still a normal fp32 number; a student that leaves less to a class gets no more push.
FLOOR = -80.0


@dataclass(frozen=True)
class Partition:
    """Masses of the same events on both sides; each row adds up to 1 on each side."""

    log_q: Float[Tensor, "targets events"]
    """Student's log mass of each named token, then of the lumped class."""
    p: Float[Tensor, "targets events"]
    """Target's mass of the same events."""
    named: Bool[Tensor, "targets events"]
    """False where an event does not exist (padding, tokens without a partner)."""


def partition(student_logits: Float[Tensor, "steps vocab"], target: FusedTarget) -> Partition:
    """Both distributions over named tokens and the lumped rest, in fp32.

    The rest of the student is a logsumexp over the tokens that are not named, not 1 - sum q: that
    difference loses all digits, and its gradient, exactly where a student is confident.
    Memory: one copy of the target rows' logits in fp32; no dense target.
    """
    logits = student_logits.index_select(0, target.rows).float()
    mapped = target.ids >= 0
    ids = target.ids.clamp(min=0).long()
    total = logits.logsumexp(dim=-1, keepdim=True)
    log_q = logits.gather(1, ids) - total
    # Unmapped ids point at token 0, which must not be struck out by them.
    struck = torch.zeros_like(logits).scatter_add_(1, ids, mapped.to(logits.dtype)) > 0
    outside = logits.masked_fill(struck, torch.finfo(logits.dtype).min)
    log_rest = (outside.logsumexp(dim=-1, keepdim=True) - total).clamp(min=FLOOR)
    mass = target.logp.float().exp()
    lumped = target.rest.float().unsqueeze(1) + mass.masked_fill(mapped, 0).sum(1, keepdim=True)
    always = torch.ones(len(target), 1, dtype=torch.bool, device=ids.device)
    return Partition(
        torch.cat([log_q.masked_fill(~mapped, FLOOR), log_rest], dim=1),
        torch.cat([mass.masked_fill(~mapped, 0), lumped], dim=1),
        torch.cat([mapped, always], dim=1),
    )


def weighted_mean(losses: Float[Tensor, " targets"], target: FusedTarget) -> Float[Tensor, ""]:
    """Mean of the entries by weight; 0, with a gradient of 0, when there is nothing to weigh."""
    weight = target.weight.to(losses.dtype)
    return (losses * weight).sum() / weight.sum().clamp(min=torch.finfo(losses.dtype).tiny)
