"""Fisher: average, weighted by how much each expert depends on a weight. (arXiv:2111.09832)

merged = sum(w_i * F_i * expert_i) / sum(w_i * F_i) per element, F_i the diagonal Fisher information
of expert i (`smelt statistics --kind fisher`), which is large where a small change of the weight
changes what the model predicts. To F_i a `floor` of 1e-6 is added (MergeLM's and fusion_bench's
rule; the authors' code takes the larger of the two), so that weights nobody depends on get the
weighted mean. So do tensors without statistics in every file. F_i should come on one scale for all
experts, with a mean square of 1 over the model, or the expert with the larger gradients wins
everywhere. `weight` (0 or more), the paper's lambda_i, is 1/N; the paper searches it. The base is
not used.

When: experts for tasks of one family, and data of each.
Evidence: for: its paper: robust fine-tuning, intermediate-task transfer. Against: RegMean beats it
in RegMean's paper; needs backward passes; a diagonal from few examples is noisy for large models.
"""

from typing import Annotated, Any

from smelt.merge import algebra, ops
from smelt.merge.parameters import Span, Weight

needs_base = False
num_experts = (1, None)
extra = "fisher"

Floor = Annotated[float, Span(0.0, 1e6, 1e-6, search_low=0.0, search_high=1e-2)]
"""What is added to the Fisher information of every weight."""


def fisher(
    base: ops.Base | None, experts: ops.Experts, *, extra: list[Any], weight: Weight, floor: Floor
) -> ops.Base:
    """Fisher-weighted mean; `extra`: Fisher information of the experts' shape or None for each.

    Raises UserError for weights that are negative or all 0.
    """
    shares = algebra.shares("fisher: weight", weight)
    mean = ops.weighted_sum(experts, shares)
    if any(one is None for one in extra):
        return mean
    above, below = 0.0, 0.0
    for share, expert, importance in zip(shares, experts, extra, strict=True):
        trust = share * (ops.wide(importance) + floor)
        above = above + trust * expert
        below = below + trust
    nobody = below == 0
    merged = above / (below + nobody)
    return ops.like(algebra.library(experts).where(nobody, ops.wide(mean), merged), mean)
