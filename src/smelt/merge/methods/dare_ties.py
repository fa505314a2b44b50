"""DARE with TIES: drop elements at random, scale up the rest, elect signs. (arXiv:2311.03099)

Each element of a task vector is kept with probability `density`; then the election of TIES
(arXiv:2306.01708): per element the sign with more weighted mass wins (a tie is +), and only task
vectors with that sign are added, times weight and `lambda`. With `rescale` (the default) survivors
are scaled: `rule: paper` (the default) divides by the density, unbiased and one pass; `rule:
mergekit` multiplies by the ratio of the sums of magnitudes before and after, two passes; its
random numbers cannot be had, so its rule would reproduce none of its models anyway. The election is
the same in both. Density defaults to 1, which drops nothing; `normalize` is false as in mergekit.
Which elements go depends on the seed, the expert's content, the tensor's name and the element only.

When: as dare_linear, for experts whose signs conflict.
Evidence: for: its paper merges this way with gains over TIES alone; against: random (try several
  seeds), it fails for large changes, and election helps little on language models
  (arXiv:2511.21437).
"""

from typing import Literal

from smelt.merge import ops, thinning
from smelt.merge.blocks import Blocks, Random
from smelt.merge.parameters import Density, Lambda, Normalize, Switch, Weight

needs_base = True
num_experts = (1, None)


def statistics(
    tensor: Blocks,
    *,
    density: Density,
    rescale: Switch = True,
    rule: Literal["paper", "mergekit"] = "paper",
) -> list[float]:
    """What the survivors of each task vector are multiplied by."""
    return thinning.drop_factors(tensor, density, rescale=rescale, l1=rule == "mergekit")


def dare_ties(
    base: ops.Base,
    experts: ops.Experts,
    *,
    statistics: list[float],
    random: Random,
    weight: Weight,
    density: Density,
    lambda_: Lambda = 1.0,
    normalize: Normalize = False,
) -> ops.Base:
    """Base plus the sign-consistent sum of thinned task vectors."""
    deltas = thinning.drop(ops.deltas_of(base, experts), random, density, statistics)
    return ops.add_deltas(base, deltas, weight, scale=lambda_, elect=True, normalize=normalize)
