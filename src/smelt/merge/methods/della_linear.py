"""DELLA, linear: drop elements by the rank of their magnitude, at random, add. (arXiv:2406.11617)

Within each row an element is kept with a probability that grows with the rank of its magnitude,
from density - epsilon to density + epsilon (the paper's epsilon is the full width, twice this one,
which is mergekit's); merged = base + lambda * sum(weight_i * what is left), without election.
With `rescale` (the default) survivors are scaled: `rule: paper` (the default) divides each by its
own probability, unbiased and one pass; `rule: mergekit` multiplies all by the ratio of the sums of
magnitudes before and after, two passes. mergekit's random numbers cannot be had, so its rule would
reproduce none of its models anyway. Defaults: density 1, which drops nothing; epsilon 0.15. The
density must lie further than epsilon from 0 and 1. Equal magnitudes rank by column; a tensor of
three dimensions is ranked along its last (mergekit: its second).

When: as dare_linear, if magnitude is believed to tell importance.
Evidence: for: its paper's drop step, an ablation there; against: nobody else confirms it, and it
  is slower than dare_linear.
"""

from typing import Literal

from smelt.merge import ops, thinning
from smelt.merge.blocks import Blocks, Random
from smelt.merge.parameters import Density, Epsilon, Lambda, Normalize, Switch, Weight

needs_base = True
num_experts = (1, None)


def statistics(
    tensor: Blocks,
    *,
    density: Density,
    epsilon: Epsilon,
    rescale: Switch = True,
    rule: Literal["paper", "mergekit"] = "paper",
) -> thinning.Kept | None:
    """With mergekit's rescaling, what is kept. Raises UserError for impossible probabilities."""
    thinning.check_chances(density, epsilon)
    if rescale and rule == "mergekit":
        return thinning.kept_by_rank(tensor, density, epsilon)
    return None


def della_linear(
    base: ops.Base,
    experts: ops.Experts,
    *,
    statistics: thinning.Kept | None,
    random: Random,
    weight: Weight,
    density: Density,
    epsilon: Epsilon,
    lambda_: Lambda = 1.0,
    normalize: Normalize = False,
    rescale: Switch = True,
) -> ops.Base:
    """Base plus the scaled sum of thinned task vectors."""
    deltas = ops.deltas_of(base, experts)
    if statistics is not None:
        kept = statistics.within(deltas, random.start)
    else:
        kept = thinning.drop_by_rank(deltas, random, density, epsilon, rescale=rescale)
    return ops.add_deltas(base, kept, weight, scale=lambda_, normalize=normalize)
