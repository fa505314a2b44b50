"""Karcher: the mean of directions on the sphere, with the mean norm. (arXiv:2603.04972)

Each tensor is a direction and a norm. From the normalised mean of directions `max_iter` steps (10)
go along the mean of the logarithms until a step is shorter than `tol` (1e-5): the point with the
least sum of squared angles. It is scaled by the mean norm. All experts count equally; a base model
gives config and tokenizer only. One rule, mergekit's, whose author wrote the paper. Everything is
computed from inner products of the tensors, in float64. Opposite directions, which have no mean,
are left out of a step.

When: several rather different models, where averaging would shrink the norm.
Evidence: for: its authors' benchmarks; against: no independent ones, and for close fine-tunes it is
  the mean to many digits.
"""

import numpy as np

from smelt.merge import ops
from smelt.merge.blocks import Blocks
from smelt.merge.parameters import Least, Steps

needs_base = False
num_experts = (1, None)


def statistics(tensor: Blocks, *, max_iter: Steps = 10.0, tol: Least = 1e-5) -> list[float]:
    """The factor of each tensor."""
    count = len(tensor.experts)
    if count == 1:
        return [1.0]
    gram = ops.inner_products(tensor, of_deltas=False)
    norms = np.sqrt(np.diag(gram))
    valid = np.flatnonzero(norms > tol)
    if not valid.size:
        return [0.0] * count
    cosines = gram[np.ix_(valid, valid)] / np.outer(norms[valid], norms[valid])
    # The mean as factors of the directions.
    mean = np.full(valid.size, 1 / valid.size)
    length = np.sqrt(max(0.0, mean @ cosines @ mean))
    mean = np.eye(valid.size)[0] if length < tol else mean / length
    for _ in range(round(max_iter)):
        dots = np.clip(cosines @ mean, -1, 1)
        angles = np.arccos(dots)
        counts = (angles >= tol) & (np.sin(angles) >= 1e-12)
        pulls = np.where(counts, angles, 0) / np.where(counts, np.sin(angles), 1) / valid.size
        tangent = pulls - (pulls @ dots) * mean
        step = np.sqrt(max(0.0, tangent @ cosines @ tangent))
        if step < tol:
            break
        mean = np.cos(step) * mean + np.sin(step) / step * tangent
        length = np.sqrt(max(0.0, mean @ cosines @ mean))
        mean = mean / (length if length > tol else 1.0)
    factors = np.zeros(count)
    factors[valid] = mean / norms[valid] * (norms.sum() / count)
    return [float(one) for one in factors]


def karcher(base: ops.Base | None, experts: ops.Experts, *, statistics: list[float]) -> ops.Base:
    """The mean on the sphere; `base` is not used."""
    return ops.weighted_sum(experts, statistics)
