"""Compiled kernels of the CPU path: one pass over memory each, no temporaries, no interpreter lock.

Each has its plain counterpart for torch tensors in `ops`, which tests compare it with. Sums are
float64 and their order depends on the block alone, never on threads. numba keeps the machine code
beside this file (or in the user's cache), so that compiling happens once per machine.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.merge.jit import compiled, compiled_sum

_PIECE = 2048  # elements whose float64 sums stay in the first-level cache


@compiled
def load_bfloat16(source: NDArray[Any], out: NDArray[Any]) -> int:
    """uint16 bits -> float32; gives the number of values that are NaN or infinite."""
    bits = out.view(np.uint32)
    bad = 0
    for i in range(source.size):
        word = np.uint32(source[i])
        bits[i] = word << np.uint32(16)
        bad += (word & np.uint32(0x7F80)) == np.uint32(0x7F80)
    return bad


@compiled
def store_bfloat16(source: NDArray[Any], out: NDArray[Any]) -> int:
    """float32 -> uint16 bits, rounded to nearest even; gives the number of NaN or infinities."""
    bits = source.view(np.uint32)
    bad = 0
    for i in range(source.size):
        word = bits[i]
        rounded = np.uint32(
            (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        )
        if (word & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
            rounded = (word >> np.uint32(16)) | np.uint32(0x40)
        out[i] = np.uint16(rounded)
        bad += (rounded & np.uint32(0x7F80)) == np.uint32(0x7F80)
    return bad


@compiled
def weighted_sum(
    base: NDArray[Any],
    base_weight: Any,
    experts: NDArray[Any],
    weights: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """out = base_weight * base + sum of weight * expert, in float64 and rounded once."""
    total = np.empty(_PIECE)
    for start in range(0, out.size, _PIECE):
        size = min(_PIECE, out.size - start)
        row = base[start : start + size]
        for i in range(size):
            total[i] = base_weight * np.float64(row[i])
        for k in range(weights.size):
            weight, row = weights[k], experts[k, start : start + size]
            for i in range(size):
                total[i] += weight * np.float64(row[i])
        target = out[start : start + size]
        for i in range(size):
            target[i] = total[i]


@compiled
def add_deltas(
    base: NDArray[Any],
    deltas: NDArray[Any],
    weights: NDArray[Any],
    votes: NDArray[Any],
    scale: Any,
    elect: Any,
    tie: Any,
    normalize: Any,
    least: Any,
    instead: Any,
    out: NDArray[Any],
) -> None:
    """out = base + scale * (weighted sum or mean of the task vectors, after sign election).

    tie: the sign that counts where votes cancel, 1 or 0 (nobody's); a divisor smaller than `least`
    is replaced by `instead`.
    """
    total, mass, divisor = np.empty(_PIECE), np.empty(_PIECE), np.empty(_PIECE)
    for start in range(0, out.size, _PIECE):
        size = min(_PIECE, out.size - start)
        total[:size] = 0.0
        if elect:
            mass[:size] = 0.0
            divisor[:size] = 0.0
            for k in range(weights.size):
                vote, row = votes[k], deltas[k, start : start + size]
                for i in range(size):
                    mass[i] += vote * np.float64(row[i])
            for k in range(weights.size):
                weight, vote, row = weights[k], votes[k], deltas[k, start : start + size]
                for i in range(size):
                    delta = np.float64(row[i])
                    cast, up = vote * delta, mass[i] > 0.0 or (mass[i] == 0.0 and tie)
                    # Zeros agree with nobody.
                    agrees = cast > 0.0 if up else (cast < 0.0 and mass[i] < 0.0)
                    total[i] += weight * delta if agrees else 0.0
                    divisor[i] += weight if agrees else 0.0
            if normalize:
                for i in range(size):
                    total[i] /= divisor[i] if abs(divisor[i]) >= least else instead
        else:
            for k in range(weights.size):
                weight, row = weights[k], deltas[k, start : start + size]
                for i in range(size):
                    total[i] += weight * np.float64(row[i])
        target, row = out[start : start + size], base[start : start + size]
        for i in range(size):
            target[i] = np.float64(row[i]) + scale * total[i]


@compiled
def keep_between(
    deltas: NDArray[Any],
    low: NDArray[Any],
    high: NDArray[Any],
    factors: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """Zero what is smaller in magnitude than low[k] or larger than high[k], scale the rest."""
    for k in range(deltas.shape[0]):
        least, most, factor = low[k], high[k], factors[k]
        for i in range(deltas.shape[1]):
            size = abs(deltas[k, i])
            out[k, i] = deltas[k, i] * factor if size >= least and size <= most else 0.0


@compiled
def histogram(
    bits: NDArray[Any],
    body: Any,
    shift: Any,
    series: NDArray[Any],
    prefixes: NDArray[Any],
    counts: NDArray[Any],
) -> None:
    """Count the 16-bit digits at `shift` of the words that have a prefix, added to `counts`.

    bits (series, words); body: the bits of a word that count; row j of counts is about the row
    series[j] of bits, and prefixes[j] is what stands above the digit.
    """
    above, down, digit = shift + 16, shift, np.uint64(0xFFFF)
    for j in range(series.size):
        row, prefix = bits[series[j]], prefixes[j]
        for i in range(row.size):
            word = np.uint64(row[i]) & body
            if word >> np.uint64(above) == prefix:
                counts[j, (word >> np.uint64(down)) & digit] += 1


@compiled
def first_histogram(bits: NDArray[Any], digit: Any, shift: Any, counts: NDArray[Any]) -> None:
    """`histogram` of the highest digit, where every word counts; one row for each of `bits`."""
    for k in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            counts[k, (bits[k, i] >> shift) & digit] += 1


@compiled_sum
def gram(base: NDArray[Any], vectors: NDArray[Any], length: Any, out: NDArray[Any]) -> None:
    """Inner products of all pairs of vectors (or of vector - base), in float64, added to `out`.

    vectors (count, size) hold size / length groups of `length`; out (groups, count, count). A base
    of no numbers is none.
    """
    count, size = vectors.shape
    piece = np.empty((count, _PIECE // 2))
    for group in range(out.shape[0]):
        end = min(size, (group + 1) * length)
        for start in range(group * length, end, _PIECE // 2):
            width = min(_PIECE // 2, end - start)
            for a in range(count):
                left, row = piece[a], vectors[a, start : start + width]
                if base.size > 0:
                    origin = base[start : start + width]
                    for i in range(width):
                        left[i] = np.float64(row[i]) - np.float64(origin[i])
                else:
                    for i in range(width):
                        left[i] = row[i]
                for b in range(a + 1):
                    right = piece[b]
                    total = 0.0
                    for i in range(width):
                        total += left[i] * right[i]
                    out[group, a, b] += total
                    if a != b:
                        out[group, b, a] += total


@compiled_sum
def power_sums(values: NDArray[Any], power: Any, out: NDArray[Any]) -> None:
    """Sum of magnitudes (power 1) or squares (2) of every row, in float64, added to `out`."""
    for k in range(values.shape[0]):
        total = 0.0
        if power == 1:
            for i in range(values.shape[1]):
                total += abs(np.float64(values[k, i]))
        else:
            for i in range(values.shape[1]):
                total += np.float64(values[k, i]) * np.float64(values[k, i])
        out[k] += total


@compiled
def variances(vectors: NDArray[Any], out: NDArray[Any]) -> None:
    """Population variance over rows, per column, in float64 and rounded once."""
    count = vectors.shape[0]
    total, squares = np.empty(_PIECE), np.empty(_PIECE)
    for start in range(0, out.size, _PIECE):
        size = min(_PIECE, out.size - start)
        total[:size] = 0.0
        squares[:size] = 0.0
        first = vectors[0, start : start + size]
        for k in range(1, count):
            row = vectors[k, start : start + size]
            for i in range(size):
                # Around the first vector, so that nothing cancels and equal ones give 0.
                gap = np.float64(row[i]) - np.float64(first[i])
                total[i] += gap
                squares[i] += gap * gap
        target = out[start : start + size]
        for i in range(size):
            target[i] = max(0.0, squares[i] - total[i] * total[i] / count) / count


@compiled
def add_changes(
    base: NDArray[Any], experts: NDArray[Any], epsilon: Any, boosts: NDArray[Any], out: NDArray[Any]
) -> None:
    """out = base + mean of the task vectors larger than epsilon, boosted where there is one."""
    total, count, boost = np.empty(_PIECE), np.empty(_PIECE), np.empty(_PIECE)
    for start in range(0, out.size, _PIECE):
        size = min(_PIECE, out.size - start)
        origin, target = base[start : start + size], out[start : start + size]
        total[:size] = 0.0
        count[:size] = 0.0
        boost[:size] = 1.0
        for k in range(boosts.size):
            row, mine = experts[k, start : start + size], boosts[k]
            for i in range(size):
                delta = np.float64(row[i] - origin[i])
                changed = abs(delta) > epsilon
                total[i] += delta if changed else 0.0
                count[i] += 1.0 if changed else 0.0
                boost[i] = mine if changed else boost[i]
        for i in range(size):
            factor = 1.0 / count[i] if count[i] > 1.0 else boost[i]
            target[i] = np.float64(origin[i]) + total[i] * factor


@compiled
def count_changes(
    base: NDArray[Any],
    experts: NDArray[Any],
    epsilon: Any,
    alone: NDArray[Any],
    shared: NDArray[Any],
) -> None:
    """Count, per expert, elements that changed by more than epsilon in it alone, and not alone."""
    count = np.empty(_PIECE, dtype=np.int32)
    for start in range(0, base.size, _PIECE):
        size = min(_PIECE, base.size - start)
        origin = base[start : start + size]
        count[:size] = 0
        for k in range(alone.size):
            row = experts[k, start : start + size]
            for i in range(size):
                count[i] += abs(np.float64(row[i] - origin[i])) > epsilon
        for k in range(alone.size):
            row, single, several = experts[k, start : start + size], 0, 0
            for i in range(size):
                changed = abs(np.float64(row[i] - origin[i])) > epsilon
                single += changed and count[i] == 1
                several += changed and count[i] > 1
            alone[k] += single
            shared[k] += several
