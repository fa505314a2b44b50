"""SCE: select where experts differ, weigh them by energy, erase minority signs. (arXiv:2408.07990)

Select: the `density` share (mergekit: `select_topk`) of positions with the largest variance over
the task vectors. Calculate: one weight per expert and tensor, its share of the energy (sum of
squares) at these positions. Erase: drop elements against the majority sign, average the rest.
Density defaults to 1 (mergekit's); FuseChat merges with 0.1. The published code comes in two kinds:
`variant: mergekit` masks the task vectors, so only selected positions change, and counts the share
over positions of non-zero variance; `variant: paper`, the authors' code (FuseAI), takes the share
of all positions, uses them only for the weights, and merges the unmasked task vectors.
Divergence from both: weights follow the energy however small the task vectors are (mergekit turns
uniform below a mean square of 1e-6, which is most fine-tunes); equal variances are all selected, so
that a single expert, whose variance is zero everywhere, is returned and not thrown away.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from smelt.merge import ops
from smelt.merge.parameters import SharedDensity

needs_base = True
num_experts = (1, None)
aliases = {"select_topk": "density"}


def sce(
    base: Float[Tensor, "*shape"],
    experts: list[Float[Tensor, "*shape"]],
    *,
    density: SharedDensity,
    variant: Literal["mergekit", "paper"] = "mergekit",
) -> Float[Tensor, "*shape"]:
    """Base plus the energy-weighted, sign-consistent mean of task vectors, for one tensor."""
    deltas = ops.deltas_of(base, experts)
    mask = _selected(deltas, density, of_all=variant == "paper")
    selected = [delta * mask for delta in deltas]
    energy = [ops.dot(delta, delta) for delta in selected]
    total = sum(energy)
    if total == 0:
        # The selected positions say nothing about the experts: with nothing selected, or no change.
        if variant == "mergekit":
            return base.clone()
        energy, total = [1.0] * len(deltas), float(len(deltas))
    weights = [part / total for part in energy]
    merging = selected if variant == "mergekit" else deltas
    return base + ops.mean_of_agreeing(merging, weights, ops.elect_sign(merging))


def _selected(
    deltas: list[Float[Tensor, "*shape"]], density: float, *, of_all: bool
) -> Bool[Tensor, "*shape"]:
    """The positions whose variance over experts is among the largest share."""
    if density >= 1 or deltas[0].numel() == 0:
        return torch.ones_like(deltas[0], dtype=torch.bool)
    if density <= 0:
        return torch.zeros_like(deltas[0], dtype=torch.bool)
    mean = ops.weighted_sum(deltas, [1 / len(deltas)] * len(deltas))
    squares = [(delta - mean).square() for delta in deltas]
    variance = ops.weighted_sum(squares, [1 / len(deltas)] * len(deltas))
    count = variance.numel() if of_all else int(torch.count_nonzero(variance))
    return variance >= ops.kth_largest(variance, max(1, int(density * count)))
