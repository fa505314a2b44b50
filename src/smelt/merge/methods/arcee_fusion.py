"""Arcee Fusion: take from one fine-tune only the most important changes. (Arcee, vendor blog)

Importance of a weight is |expert - base| times the Kullback-Leibler divergence between the rows as
softmax distributions, expert from base. Changes whose importance is at least the median plus 1.5
times the interquartile range of the tensor are taken whole, all others are dropped. No parameters;
one rule, mergekit's. Divergence: softmax and divergence are in float64, since the divergence of two
close rows is below the rounding of float32, where mergekit thresholds noise; and the quantiles are
those of all weights, where mergekit draws a million of a larger tensor.

When: taking only the most changed weights of one fine-tune.
Evidence: for: a vendor's blog without numbers; against: a weight matrix's row is no logit vector,
  and nobody measured it.
"""

import math
from typing import Any

from smelt.merge import ops
from smelt.merge.blocks import Block, Blocks
from smelt.merge.selection import kth_largest

needs_base = True
num_experts = (1, 1)

FLOOR = 1e-8


def _divergence(base: ops.Array, expert: ops.Array) -> ops.Array:
    """Per row: (rows, 1) in float64."""
    p, q = ops.softmax(expert) + FLOOR, ops.softmax(base) + FLOOR
    return (p * ops.log(p / q)).sum(-1)[:, None]


def _importance(base: ops.Array, expert: ops.Array, divergence: ops.Array) -> ops.Array:
    return abs(ops.wide(expert) - ops.wide(base)) * divergence


def statistics(tensor: Blocks) -> float:
    """The importance from which on a change is taken."""
    size = math.prod(tensor.shape)
    # One number a row, kept over the passes.
    known = {one.start: _divergence(one.base, one.experts[0]) for one in tensor}

    def values(block: Block) -> ops.Array:
        return _importance(block.base, block.experts[0], known[block.start])[None]

    places = [size - int(share * (size - 1)) for share in (0.25, 0.5, 0.75)]
    ((low, median, high),) = kth_largest(tensor, values, [places], signed=True)
    return median + 1.5 * (high - low) if size else 0.0


def arcee_fusion(base: ops.Base, experts: ops.Experts, *, statistics: float) -> ops.Base:
    """The base with the expert's weights where they changed most."""
    expert: Any = experts[0]
    importance = _importance(base, expert, _divergence(base, expert))
    return ops.choose(importance >= statistics, expert, base)
