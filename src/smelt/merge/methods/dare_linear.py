"""DARE: drop elements of task vectors at random, scale up the rest, add them. (arXiv:2311.03099)

Each element is kept with probability `density`; merged = base + lambda * sum(weight_i * what is
left). With `rescale` (the default) the survivors are scaled so that nothing is lost on average.
`rule: paper` (the default) divides by the density, which is unbiased and one pass over the tensor;
`rule: mergekit` multiplies by the ratio of the sums of magnitudes before and after, two passes.
mergekit's random numbers cannot be had, so its rule would reproduce none of its models anyway.
Density defaults to 1, which drops nothing. Which elements go depends on the seed, the content of
the expert, the tensor's name and the element: not on order, threads or device.

When: thinning task vectors before they are added; never for large ones (continued pre-training).
Evidence: for: its paper drops 90 to 99 % of the change by supervised fine-tuning without loss;
  against: it fails for large changes (same paper), and is random: try several seeds.
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


def dare_linear(
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
    """Base plus the scaled sum of thinned task vectors."""
    deltas = thinning.drop(ops.deltas_of(base, experts), random, density, statistics)
    return ops.add_deltas(base, deltas, weight, scale=lambda_, normalize=normalize)
