"""TIES: trim each task vector, elect one sign per weight, average what agrees. (arXiv:2306.01708)

Trim keeps the `density` largest share of each task vector; the sign with more mass is elected per
element; the task vectors with that sign are averaged by weight (without `normalize`: summed),
scaled by `lambda` and added to the base. Density defaults to 1, no trimming (the paper keeps 0.2; a
default that discards four fifths should be asked for). `rescale` gives each trimmed task vector its
sum of magnitudes back. In every rule elements that equal the threshold are all kept, as in the
authors' code (mergekit keeps an arbitrary subset), and the trim is per tensor, not over the model.
`rule: mergekit` (the default: recipes written for it give the same model) elects by weighted mass,
and + where it cancels. `rule: paper` elects by the unweighted sum, and nobody where that cancels;
with equal weights and no exact tie both are the same. The authors' code decides ties by the
majority over the whole model, which a tensor alone does not know.

When: many experts of one base whose signs conflict.
Evidence: for: its paper (T5, ViT), ahead of averaging; against: on language models in the wild it
  usually does not beat the base or task arithmetic (arXiv:2511.21437).
"""

from typing import Literal

from smelt.merge import ops, thinning
from smelt.merge.blocks import Blocks
from smelt.merge.parameters import Density, Lambda, Normalize, Switch, Weight

needs_base = True
num_experts = (1, None)


def statistics(tensor: Blocks, *, density: Density, rescale: Switch = False) -> thinning.Bands:
    """The magnitudes of each task vector that are kept."""
    return thinning.largest(tensor, density, rescale=rescale)


def ties(
    base: ops.Base,
    experts: ops.Experts,
    *,
    statistics: thinning.Bands,
    weight: Weight,
    lambda_: Lambda = 1.0,
    normalize: Normalize = True,
    rule: Literal["mergekit", "paper"] = "mergekit",
) -> ops.Base:
    """Base plus the trimmed, sign-consistent mean of task vectors."""
    deltas = statistics.within(ops.deltas_of(base, experts))
    votes = [1.0] * len(weight) if rule == "paper" else weight
    return ops.add_deltas(
        base, deltas, weight, scale=lambda_, elect=True, normalize=normalize, votes=votes,
        tie_elects=rule == "mergekit",
    )  # fmt: skip
