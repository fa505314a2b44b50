"""VaRM: average task vectors, each weighted by how much it changed the tensor. (arXiv:2402.16107)

merged = base + lambda * sum(eta_i * t_i), eta_i = mean(t_i^2) / sum over experts of it: one weight
per expert and tensor, for every tensor. The base is FuseChat's pivot. Nothing to tune: the paper
has no `lambda`, hence 1. Divergence from the authors' script, which falls back to equal weights in
a tensor that any one expert left as it was: here that expert has the weight 0, by the formula.

When: students of different teachers, all fine-tuned from one pivot model (FuseChat 1).
Evidence: for: its authors, MT-Bench 8.22 for FuseChat-7B. Against: its authors replaced it by SCE;
the expert trained hardest wins, whatever it learnt.
"""

from typing import Any

import numpy as np

from smelt.merge import ops
from smelt.merge.blocks import Blocks
from smelt.merge.parameters import Lambda

needs_base = True
num_experts = (1, None)


def statistics(tensor: Blocks) -> Any:
    """Sum of squares of each task vector over the whole tensor, (num_experts,) in float64."""
    return np.diag(ops.inner_products(tensor, of_deltas=True))


def varm(
    base: ops.Base, experts: ops.Experts, *, statistics: Any, lambda_: Lambda = 1.0
) -> ops.Base:
    """Base plus the mean task vector, weighted by squares; the base if none changed."""
    total = statistics.sum()
    shares = lambda_ * statistics / (total if total > 0 else 1.0)
    return ops.weighted_sum(experts, shares.tolist(), base, 1 - float(shares.sum()))
