"""SCE: select where experts differ, weigh them by energy, erase minority signs. (arXiv:2408.07990)

Select: the `density` share (mergekit: `select_topk`) of positions with the largest variance over
the task vectors. Calculate: one weight per expert and tensor, its share of the energy (sum of
squares) at these positions. Erase: drop elements against the majority sign, average the rest.
Density defaults to 1 (mergekit's); FuseChat merges with 0.1. The published code comes in two kinds:
`rule: mergekit` masks the task vectors, so only selected positions change, and counts the share
over positions of non-zero variance; `rule: paper`, the authors' code (FuseAI), takes the share
of all positions, uses them only for the weights, and merges the unmasked task vectors.
Divergence from both: weights follow the energy however small the task vectors are (mergekit turns
uniform below a mean square of 1e-6, which is most fine-tunes); equal variances are all selected, so
that a single expert, whose variance is zero everywhere, is returned and not thrown away.
"""

from typing import Any, Literal

import numpy as np

from smelt.merge import ops
from smelt.merge.blocks import Block, Blocks
from smelt.merge.parameters import SharedDensity

needs_base = True
num_experts = (1, None)
aliases = {"select_topk": "density"}


def statistics(
    tensor: Blocks, *, density: SharedDensity, rule: Literal["mergekit", "paper"] = "mergekit"
) -> tuple[float, Any]:
    """The variance from which on a position is selected, and each expert's energy there."""
    threshold = 0.0 if density >= 1 else float("inf")
    if 0 < density < 1:
        (threshold,) = ops.kth_largest(
            tensor, _variance, None, [density], of_nonzero=rule == "mergekit"
        )
    energy = np.zeros(len(tensor.experts))
    for block in tensor:
        energy += np.diag(ops.gram(_selected(block, threshold)))
    return threshold, energy


def _variance(block: Block) -> ops.Array:
    return ops.variances(ops.deltas_of(block.base, block.experts))[None]


def _selected(block: Block, threshold: float) -> ops.Array:
    deltas = ops.deltas_of(block.base, block.experts)
    return deltas if threshold <= 0 else deltas * (ops.variances(deltas) >= threshold)


def sce(
    base: ops.Base,
    experts: ops.Experts,
    *,
    statistics: tuple[float, Any],
    rule: Literal["mergekit", "paper"] = "mergekit",
) -> ops.Base:
    """Base plus the energy-weighted, sign-consistent mean of task vectors."""
    threshold, energy = statistics
    deltas = ops.deltas_of(base, experts)
    if energy.sum() == 0:
        # The selected positions say nothing about the experts: with nothing selected, or no change.
        if rule == "mergekit":
            return ops.weighted_sum(experts, [0.0] * len(energy), base, 1.0)
        energy = np.ones(len(energy))
    if rule == "mergekit" and threshold > 0:
        deltas = deltas * (ops.variances(deltas) >= threshold)
    return ops.add_deltas(base, deltas, energy / energy.sum(), elect=True, normalize=True)
