"""SWUDI: the task vector that interferes least, in closed form. (arXiv:2606.07289)

WUDI's objective for a matrix, sum |(t - t_i) t_i^T|^2 / |t_i|^2, has the gradient 2 (t C - D). With
C = V diag(e) V^T, flowing from t0 along D - t C for a `time` reaches t0 + (D V / e - t0 V) f V^T,
f = 1 - exp(-time * e): large eigenvalues are solved, small ones stay near the start. f is zeroed
but for the `rank_ratio` largest eigenvalues. Defaults: time 300 and ratio 0.85, the authors' for
full fine-tunes of language models (0.65 for CLIP). t0 is the sum of task vectors as in both papers:
the directions left alone are then about N times too long for full fine-tunes, so set `lambda` near
1/N (as the authors do for Qwen2-VL) or `start: mean`. Embeddings, the head and tensors that are no
matrices (also stacks of MoE experts) get the mean task vector; the authors' code does so, but
treats embeddings as matrices. Task vectors of zero are left out; no eigenvalue is below 1e-8.

Memory of each thread: the tensor in all models, 2N + 4 float64 copies of it, and three matrices of
the smaller of columns and N * rows squared.
When: LoRA-like or vision experts, no data.
Evidence: for: its authors: as good as WUDI on CLIP, Flan-T5, Llama and Qwen2-VL in a fraction of
the time. Against: authors overlap with WUDI's; rank and scale had to be tuned anew per family.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from smelt.merge import algebra, ops
from smelt.merge.parameters import Lambda, Span

needs_base = True
num_experts = (1, None)
whole = True

Time = Annotated[float, Span(0.0, 1e12, 300.0, search_low=30.0, search_high=3000.0)]
"""How long to descend; the larger, the smaller the eigenvalues that are solved."""

RankRatio = Annotated[float, Span(0.0, 1.0, 0.85, search_low=0.3, search_high=1.0)]
"""Share of eigenvalues along which the start is changed at all; one at least."""

_LEAST = 1e-8  # eigenvalue


def swudi(
    base: ops.Base,
    experts: ops.Experts,
    *,
    name: str,
    time: Time,
    rank_ratio: RankRatio,
    start: Literal["sum", "mean"] = "sum",
    lambda_: Lambda = 1.0,
) -> ops.Base:
    """Base plus the task vector that descent of the interference reaches after `time`."""
    divisor = len(experts) if start == "mean" else 1

    def merge(deltas: Iterator[algebra.Array]) -> algebra.Array:
        # With the task vectors scaled to length 1 and stacked, C = F^T F. Where C has no eigenvalue
        # the start, C and D are zero, and nothing happens.
        begin, right, scaled = 0.0, 0.0, []
        for delta in deltas:
            length = float((delta * delta).sum()) ** 0.5
            if length > 0:
                begin = begin + delta / divisor
                scaled.append(delta / length)
                right = right + length * algebra.cube(scaled[-1])
        if not scaled:
            return ops.wide(base) * 0.0
        xp = algebra.library(base)
        factor = xp.concatenate(scaled)
        scaled.clear()
        keep = max(1, math.floor(base.shape[1] * rank_ratio + 0.999))
        values, axes = algebra.product_axes(factor, keep)
        values = xp.clip(values, _LEAST, None)
        reached = 1 - xp.exp(-time * values)
        return begin + ((right @ axes / values - begin @ axes) * reached) @ axes.T

    return algebra.merge_matrix(name, base, experts, lambda_, merge)
