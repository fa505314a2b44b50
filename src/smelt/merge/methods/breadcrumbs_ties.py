"""Breadcrumbs with TIES: drop both ends of each task vector, then elect signs. (arXiv:2312.06795)

mergekit's combination: the selection of `breadcrumbs` (`density`, `gamma`), then the election of
TIES (arXiv:2306.01708): per element the sign with more mass wins, and only task vectors with that
sign are added, times weight and `lambda`. There is no paper on the pair. Defaults are mergekit's:
density 1, gamma 0.01, a sum (`normalize: true` makes it a mean), no `rescale`.
`rule: mergekit` (the default: recipes written for it give the same model) elects by weighted mass,
and + where it cancels; `rule: paper` by the unweighted sum, as TIES' paper, and nobody where that
cancels. Divergence: elements that equal an end of the band are all kept, no arbitrary subset.

When: as ties, for task vectors with outliers.
Evidence: for: none beyond that of its two parts; against: no paper and no study of the pair.
"""

from typing import Literal

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


def breadcrumbs_ties(
    base: ops.Base,
    experts: ops.Experts,
    *,
    statistics: thinning.Bands,
    weight: Weight,
    lambda_: Lambda = 1.0,
    normalize: Normalize = False,
    rule: Literal["mergekit", "paper"] = "mergekit",
) -> ops.Base:
    """Base plus the sign-consistent sum of what is left of the task vectors."""
    deltas = statistics.within(ops.deltas_of(base, experts))
    votes = [1.0] * len(weight) if rule == "paper" else weight
    return ops.add_deltas(
        base, deltas, weight, scale=lambda_, elect=True, normalize=normalize, votes=votes,
        tie_elects=rule == "mergekit",
    )  # fmt: skip
