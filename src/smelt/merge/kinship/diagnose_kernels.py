"""Compiled kernels of `smelt inspect`: one pass over a block each, sums that add up over blocks.

Sums are float64, counts are integers, and their order depends on the block alone, never on threads.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.merge.jit import compiled, compiled_sum

_PIECE = 1024  # elements whose differences stay in the first-level cache


@compiled_sum
def moments(origin: NDArray[Any], others: NDArray[Any], out: NDArray[Any]) -> None:
    """Inner products of the origin and of each other minus the origin, added to `out`.

    origin: (size,); others: (count, size); out: (count + 1, count + 1), float64. Differences are
    taken before they are multiplied, so that small ones lose nothing to large weights.
    """
    count = others.shape[0] + 1
    rows = np.empty((count, _PIECE))
    for start in range(0, origin.size, _PIECE):
        size = min(_PIECE, origin.size - start)
        first = rows[0]
        for i in range(size):
            first[i] = origin[start + i]
        for k in range(1, count):
            row, other = rows[k], others[k - 1]
            for i in range(size):
                row[i] = np.float64(other[start + i]) - first[i]
        for a in range(count):
            left = rows[a]
            for b in range(a + 1):
                right = rows[b]
                total = 0.0
                for i in range(size):
                    total += left[i] * right[i]
                out[a, b] += total
                if a != b:
                    out[b, a] += total


@compiled
def signs(
    base: NDArray[Any], experts: NDArray[Any], both: NDArray[Any], same: NDArray[Any]
) -> None:
    """Count the elements that differ from the base, for all pairs of experts, added to the tables.

    base: (size,); experts: (count, size); both: (count, count) elements that differ in both (the
    diagonal: in one expert); same: those of them that differ in the same direction.
    """
    count = experts.shape[0]
    rows = np.empty((count, _PIECE), dtype=np.int8)
    for start in range(0, base.size, _PIECE):
        size = min(_PIECE, base.size - start)
        first = base[start : start + size]
        for k in range(count):
            row, expert = rows[k], experts[k, start : start + size]
            for i in range(size):
                row[i] = np.int8(expert[i] > first[i]) - np.int8(expert[i] < first[i])
        for a in range(count):
            left = rows[a]
            for b in range(a + 1):
                right = rows[b]
                agree, oppose = np.int64(0), np.int64(0)
                for i in range(size):
                    product = np.int8(left[i] * right[i])
                    agree += product > 0
                    oppose += product < 0
                both[a, b] += agree + oppose
                same[a, b] += agree
                if a != b:
                    both[b, a] += agree + oppose
                    same[b, a] += agree


@compiled
def unequal(models: NDArray[Any], out: NDArray[Any]) -> None:
    """Count the elements in which two models differ, for all pairs, added to `out`.

    models: (count, size); out: (count, count), integers.
    """
    count, size = models.shape
    for start in range(0, size, _PIECE):
        end = min(size, start + _PIECE)
        for a in range(count):
            left = models[a, start:end]
            for b in range(a):
                right = models[b, start:end]
                total = np.int64(0)
                for i in range(end - start):
                    total += left[i] != right[i]
                out[a, b] += total
                out[b, a] += total
