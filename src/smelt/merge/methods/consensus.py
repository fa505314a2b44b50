"""Consensus: keep of the summed task vectors what several experts need. (arXiv:2405.07813)

S is the sum of task vectors. Expert i needs an element (its TALL mask) if |t_i| >= mask_lambda_i *
|S - t_i|: if its own part is not small beside everyone else's. merged = base + lambda * S where at
least `min_experts` need it, base elsewhere. Every tensor. `min_experts` is the paper's k: 2, its
choice, drops what one expert alone wants (selfish) or none (catastrophic); 1 drops the latter
only; 0 is task arithmetic with weights 1. `mask_lambda` is chosen per task from 0.2 to 0.6 on
validation data in the paper; the default is the middle. So is `lambda` (about 0.3 for 8 tasks);
the default 1 is the plain sum. The authors' code has > for >=, which differs where all are zero.

When: many experts (4 and more), to drop weights that matter to only one of them or to none.
Evidence: for: its authors, up to 20 vision tasks and language tasks, better than task arithmetic
and TIES; among the eight methods of MergeBench (arXiv:2505.10833). Against: drops rare skills by
design; with two experts it keeps only what both want.
"""

from typing import Annotated

from smelt.core.errors import UserError
from smelt.merge import ops
from smelt.merge.parameters import Lambda, Span

needs_base = True
num_experts = (2, None)

MaskLambda = Annotated[
    list[float], Span(0.0, 100.0, 0.4, search_low=0.2, search_high=0.6, per_expert=True)
]
"""How strict an expert's mask is: its own part must be this much of all the others'."""

MinExperts = Annotated[float, Span(0.0, 1000.0, 2.0, search_low=1.0, search_high=3.0, whole=True)]
"""Experts that must need an element for it to stay."""


def consensus(
    base: ops.Base,
    experts: ops.Experts,
    *,
    mask_lambda: MaskLambda,
    min_experts: MinExperts,
    lambda_: Lambda = 1.0,
) -> ops.Base:
    """Base plus the sum of task vectors where enough experts need it. Raises UserError."""
    if min_experts > len(experts):
        raise UserError(
            "consensus: min_experts", f"{min_experts:g} of {len(experts)} experts",
            "at most as many as there are experts",
        )  # fmt: skip
    start = ops.wide(base)
    deltas = ops.wide(experts) - start
    total = deltas.sum(0)
    needed = sum(
        1.0 * (abs(delta) >= strictness * abs(total - delta))
        for delta, strictness in zip(deltas, mask_lambda, strict=True)
    )
    return ops.like(start + lambda_ * total * (needed >= min_experts), base)
