"""Breadcrumbs: drop the largest and the smallest part of each task vector, add. (arXiv:2312.06795)

The `gamma` share of largest magnitude goes (outliers), then all but the `density` share below it;
merged = base + lambda * sum(weight_i * what is left). In the paper's terms: beta, the share of
smallest magnitude that is dropped, is 1 - density - gamma. Defaults are mergekit's: density 1,
which changes nothing, outliers stay too; gamma 0.01; neither `normalize` nor `rescale` (which
gives each task vector its sum of magnitudes back). If density + gamma > 1, fewer outliers go. Paper
and mergekit agree but for the scope: per tensor, as the paper's layer-wise masks. Divergence from
mergekit: elements that equal an end of the band are all kept, not an arbitrary subset.

When: task vectors with outliers, and no data to tune on: one setting for any number of experts.
Evidence: for: its authors, 8 vision tasks and T5 on GLUE; against: no study on large language
  models.
"""

from smelt.merge import ops, thinning
from smelt.merge.blocks import Blocks
from smelt.merge.parameters import Density, Gamma, Lambda, Normalize, Switch, Weight

needs_base = True
num_experts = (1, None)


def statistics(
    tensor: Blocks, *, density: Density, gamma: Gamma, rescale: Switch = False
) -> thinning.Bands:
    """The magnitudes of each task vector that are kept."""
    return thinning.middle(tensor, density, gamma, rescale=rescale)


def breadcrumbs(
    base: ops.Base,
    experts: ops.Experts,
    *,
    statistics: thinning.Bands,
    weight: Weight,
    lambda_: Lambda = 1.0,
    normalize: Normalize = False,
) -> ops.Base:
    """Base plus the scaled sum of what is left of the task vectors."""
    deltas = statistics.within(ops.deltas_of(base, experts))
    return ops.add_deltas(base, deltas, weight, scale=lambda_, normalize=normalize)
