"""Merge methods that need statistics of data (oracles in float64, see oracles.py)."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def fisher(base, experts, *, fishers, weight=None, floor=1e-6) -> Array:
    """fishers: one non-negative array per expert, of the tensor's shape."""
    weights = [1 / len(experts)] * len(experts) if weight is None else weight
    above, below, plain = 0.0, 0.0, 0.0
    for share, expert, importance in zip(weights, experts, fishers, strict=True):
        trust = share * (np.asarray(importance, np.float64) + floor)
        above = above + trust * np.asarray(expert, np.float64)
        below = below + trust
        plain = plain + share / sum(weights) * np.asarray(expert, np.float64)
    return np.where(below == 0, plain, above / np.where(below == 0, 1.0, below))


def regmean(base, experts, *, grams, weight=None, off_diagonal=0.9) -> Array:
    """experts: (out, in); grams: (in, in) per expert, the mean of outer products of inputs."""
    weights = [1 / len(experts)] * len(experts) if weight is None else weight
    matrices = [np.asarray(expert, np.float64) for expert in experts]
    mean = sum(w * one for w, one in zip(weights, matrices, strict=True)) / sum(weights)
    total = np.zeros((mean.shape[1], mean.shape[1]))
    pull = np.zeros_like(mean)
    for share, matrix, gram in zip(weights, matrices, grams, strict=True):
        full = np.asarray(gram, np.float64)
        shrunk = share * (off_diagonal * full + (1 - off_diagonal) * np.diag(np.diag(full)))
        total += shrunk
        pull += (matrix - mean) @ shrunk
    values, vectors = np.linalg.eigh(total)
    used = values > mean.shape[1] * 2.0**-52 * values.max()
    inverse = (vectors[:, used] / values[used]) @ vectors[:, used].T
    return mean + pull @ inverse
