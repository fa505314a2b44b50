"""MagMax: per weight, take the task vector that moved it furthest. (arXiv:2407.06322)

merged = base + lambda * t, where t is, element by element, the task vector of largest magnitude.
Every tensor. `lambda` defaults to 1; the paper tunes it on validation data, about 0.5 there. On
exactly equal magnitudes the first expert of the recipe wins (the paper leaves it open), so the
order of experts matters there and nowhere else.

When: experts fine-tuned one after another, each from the last (continual learning).
Evidence: for: its authors, class- and domain-incremental learning with CLIP. Against: vision only;
the largest change of each weight may be an outlier as well as knowledge.
"""

from smelt.merge import algebra, ops
from smelt.merge.parameters import Lambda

needs_base = True
num_experts = (1, None)


def magmax(base: ops.Base, experts: ops.Experts, *, lambda_: Lambda = 1.0) -> ops.Base:
    """Base plus the scaled task vector element of largest magnitude."""
    where = algebra.library(experts).where
    chosen, distance = experts[0], abs(experts[0] - base)
    for expert in experts[1:]:
        other = abs(expert - base)
        further = other > distance
        chosen, distance = where(further, expert, chosen), where(further, other, distance)
    return ops.weighted_sum(chosen[None], [lambda_], base, 1 - lambda_)
