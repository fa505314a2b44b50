"""SCE: select where experts differ, weigh them by energy, erase minority signs. (arXiv:2408.07990)

Select: the `density` share (mergekit: `select_topk`) of positions with the largest variance over
the task vectors. Calculate: one weight per expert and tensor, its share of the energy (sum of
squares) at these positions. Erase: drop elements against the majority sign, average the rest by
weight, add them. Density defaults to 1 (mergekit's); FuseChat merges with 0.1.
`rule: paper` (the default) is the text: the share is of all positions, only they change, weights
follow the energy. `rule: mergekit` differs in three points: the share is of positions of non-zero
variance; weights are all equal where the mean square of the task vectors, summed, is below 1e-6,
which is most fine-tunes; a single expert gives the base. That is why it is not the default.
`rule: fuseai`, the authors' code: the share as in mergekit, and the selection decides the weights
only, the task vectors are merged unmasked. In all, equal variances are all selected.

When: fusing students of different teachers that were tuned from one pivot (FuseChat).
Evidence: for: FuseChat-7B and FuseO1, by its authors; against: no independent study; energy
  favours the expert that was trained hardest.
"""

import math
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from smelt.merge import ops
from smelt.merge.blocks import Block, Blocks
from smelt.merge.parameters import SharedDensity
from smelt.merge.selection import kth_largest

needs_base = True
num_experts = (1, None)
aliases = {"select_topk": "density"}

Rule: TypeAlias = Literal["paper", "mergekit", "fuseai"]


def statistics(
    tensor: Blocks, *, density: SharedDensity, rule: Rule = "paper"
) -> tuple[float, list[float]]:
    """The variance from which on a position is selected, and the weight of each expert."""
    size, count = math.prod(tensor.shape), len(tensor.experts)
    threshold = 0.0 if density >= 1 else float("inf")
    if 0 < density < 1:

        def ranks(nonzero: NDArray[Any]) -> list[list[int]]:
            paper = rule == "paper"
            return [[max(1, int(density * size)) if paper else int(density * int(nonzero[0]))]]

        # The base moves no variance, so these passes do without it.
        alone = replace(tensor, base=None, wide=tensor.dtype is np.float64)
        ((threshold,),) = kth_largest(alone, _variance, ranks)
    energy = np.zeros(count)
    for block in tensor:
        energy += ops.energies(_selected(block.base, block.experts, threshold))
    uniform = energy.sum() < 1e-6 * size if rule == "mergekit" else energy.sum() == 0
    if uniform or not np.isfinite(energy).all():
        return threshold, [1 / count] * count
    return threshold, [float(share) for share in energy / energy.sum()]


def _variance(block: Block) -> ops.Array:
    return ops.variances(block.experts)[None]


def _selected(base: ops.Array, experts: ops.Array, threshold: float) -> ops.Array:
    deltas = ops.deltas_of(base, experts)
    if threshold > 0:
        deltas *= ops.variances(experts) >= threshold
    return deltas


def sce(
    base: ops.Base,
    experts: ops.Experts,
    *,
    statistics: tuple[float, list[float]],
    rule: Rule = "paper",
) -> ops.Base:
    """Base plus the energy-weighted, sign-consistent mean of task vectors."""
    threshold, weights = statistics
    deltas = _selected(base, experts, 0.0 if rule == "fuseai" else threshold)
    small = 1e-6 if rule == "mergekit" else 1e-300
    return ops.add_deltas(
        base, deltas, weights, elect=True, normalize=True, votes=[1.0] * len(weights), least=small,
        instead=small if rule == "mergekit" else 1.0,
    )  # fmt: skip
