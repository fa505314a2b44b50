"""What a fusion loss is given: which distribution at which student step, and its weight."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class FusedTarget:
    """Top-k distributions for some rows of the student's logits (never dense over the vocabulary).

    A row may stand several times, once per source; its weights then add up to 1. The probabilities
    of an entry and its `rest` add up to 1.
    """

    rows: Int[Tensor, " targets"]
    """Row of the logits [steps vocab] that this distribution is for."""
    ids: Int[Tensor, "targets k"]
    """Pivot token ids, each at most once per entry; -1: no pivot token has these bytes (its mass,
    in `logp`, belongs to the lumped class), or padding (`logp` is -inf)."""
    logp: Float[Tensor, "targets k"]
    """Log-probabilities in nats, -inf for padding."""
    rest: Float[Tensor, " targets"]
    """Probability outside the stored top-k."""
    weight: Float[Tensor, " targets"]
    """At least 0; 0 switches an entry off."""

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device | str) -> "FusedTarget":
        """The same target on another device."""
        return FusedTarget(
            self.rows.to(device),
            self.ids.to(device),
            self.logp.to(device),
            self.rest.to(device),
            self.weight.to(device),
        )


def join(targets: Sequence[FusedTarget], starts: Sequence[int]) -> FusedTarget:
    """One target for several samples; `starts` are added to the rows of each.

    For logits [batch, time, vocab] flattened to [batch * time, vocab] the starts are b * time.
    """
    width = max((target.ids.shape[1] for target in targets), default=0)
    if not targets:
        none = torch.empty(0)
        return FusedTarget(none.long(), torch.empty(0, 0).long(), torch.empty(0, 0), none, none)
    pads = [width - target.ids.shape[1] for target in targets]
    pad = torch.nn.functional.pad
    both = list(zip(targets, pads, strict=True))
    return FusedTarget(
        torch.cat([target.rows + start for target, start in zip(targets, starts, strict=True)]),
        torch.cat([pad(target.ids, (0, more), value=-1) for target, more in both]),
        torch.cat([pad(target.logp, (0, more), value=float("-inf")) for target, more in both]),
        torch.cat([target.rest for target in targets]),
        torch.cat([target.weight for target in targets]),
    )
