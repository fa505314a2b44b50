"""Compiled kernels of the CPU path: one pass over memory each, no temporaries, no interpreter lock.

Each has its plain counterpart for torch tensors in `ops`, which tests compare it with. Sums are
float64 and their order depends on the block alone, never on threads. numba keeps the machine code
beside this file (or in the user's cache), so that compiling happens once per machine.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])
_PIECE = 2048  # elements whose float64 sums stay in the first-level cache


def leave_out_scipy() -> None:
    """Load numba's arrays without scipy's BLAS, which no kernel here uses: 0.2 s.

    For a process that is one command: numba functions of anybody else in it have no `np.dot`.
    """
    if "scipy.linalg" in sys.modules:
        return
    sys.modules["scipy.linalg"] = cast(ModuleType, None)  # an import of it then fails at once
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        del sys.modules["scipy.linalg"]


def _compiled(function: F) -> F:
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


def _compiled_sum(function: F) -> F:
    # Leave to reassociate sums is what lets the compiler use vector registers for them.
    fastmath = {"reassoc", "contract"}
    made = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=fastmath)(function)
    return cast(F, made)


@_compiled
def load_bfloat16(source, out):  # type: ignore[no-untyped-def]
    """uint16 bits -> float32; gives the number of values that are NaN or infinite."""
    bits = out.view(np.uint32)
    bad = 0
    for i in range(source.size):
        word = np.uint32(source[i])
        bits[i] = word << np.uint32(16)
        bad += (word & np.uint32(0x7F80)) == np.uint32(0x7F80)
    return bad


@_compiled
def store_bfloat16(source, out):  # type: ignore[no-untyped-def]
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


@_compiled
def weighted_sum(base, base_weight, experts, weights, out):  # type: ignore[no-untyped-def]
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


@_compiled
def add_deltas(base, deltas, weights, votes, scale, elect, tie, normalize, least, instead, out):  # type: ignore[no-untyped-def]
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


@_compiled
def keep_between(deltas, low, high, factors, out):  # type: ignore[no-untyped-def]
    """Zero what is smaller in magnitude than low[k] or larger than high[k], scale the rest."""
    for k in range(deltas.shape[0]):
        least, most, factor = low[k], high[k], factors[k]
        for i in range(deltas.shape[1]):
            size = abs(deltas[k, i])
            out[k, i] = deltas[k, i] * factor if size >= least and size <= most else 0.0


@_compiled
def histogram(bits, body, shift, series, prefixes, counts):  # type: ignore[no-untyped-def]
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


@_compiled
def first_histogram(bits, digit, shift, counts):  # type: ignore[no-untyped-def]
    """`histogram` of the highest digit, where every word counts; one row for each of `bits`."""
    for k in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            counts[k, (bits[k, i] >> shift) & digit] += 1


@_compiled_sum
def gram(base, vectors, length, out):  # type: ignore[no-untyped-def]
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


@_compiled_sum
def power_sums(values, power, out):  # type: ignore[no-untyped-def]
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


@_compiled
def variances(vectors, out):  # type: ignore[no-untyped-def]
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


@_compiled
def add_changes(base, experts, epsilon, boosts, out):  # type: ignore[no-untyped-def]
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


@_compiled
def count_changes(base, experts, epsilon, alone, shared):  # type: ignore[no-untyped-def]
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


@_compiled
def philox(key, start, out):  # type: ignore[no-untyped-def]
    """Words of Philox4x32-10 (Salmon et al. 2011): word w is output w % 4 of counter w // 4.

    start, out.size: multiples of 4; key: 64 bits; counters have 64 bits, their upper half is 0.
    """
    low_key, high_key = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    half = np.uint64(32)
    first = np.uint64(start) // np.uint64(4)
    for block in range(out.size // 4):
        counter = first + np.uint64(block)
        x0, x1 = np.uint32(counter & np.uint64(0xFFFFFFFF)), np.uint32(counter >> half)
        x2, x3 = np.uint32(0), np.uint32(0)
        k0, k1 = low_key, high_key
        for _ in range(10):
            p0 = np.uint64(0xD2511F53) * np.uint64(x0)
            p1 = np.uint64(0xCD9E8D57) * np.uint64(x2)
            x0, x1, x2, x3 = (
                np.uint32(p1 >> half) ^ x1 ^ k0,
                np.uint32(p1 & np.uint64(0xFFFFFFFF)),
                np.uint32(p0 >> half) ^ x3 ^ k1,
                np.uint32(p0 & np.uint64(0xFFFFFFFF)),
            )
            k0 = np.uint32(k0 + np.uint32(0x9E3779B9))
            k1 = np.uint32(k1 + np.uint32(0xBB67AE85))
        out[4 * block] = x0
        out[4 * block + 1] = x1
        out[4 * block + 2] = x2
        out[4 * block + 3] = x3


@_compiled
def draw(values, key, start, bound, factor, out):  # type: ignore[no-untyped-def]
    """out = factor * value where the random word of the value is below `bound`, else 0.

    start: the number of the word of the first value.
    """
    before = start % 4
    words = np.empty(_PIECE + 4, dtype=np.uint32)
    for at in range(0, values.size, _PIECE):
        size = min(_PIECE, values.size - at)
        philox(key, start + at - before, words)
        given, row = words[before : before + size], values[at : at + size]
        target = out[at : at + size]
        for i in range(size):
            target[i] = row[i] * factor if given[i] < bound else 0.0


@_compiled
def rank(keys, shift, starts, order, ordered, out):  # type: ignore[no-untyped-def]
    """out[i] = how many keys come before key i, ascending and stable.

    One counting sort by the digits from `shift` on, the largest keys in the last of the buckets
    `starts`, all that are far below them in the first; insertion sorts the rest. The other arrays
    are room to work in, as long as `keys`.
    """
    size, last = keys.size, starts.size - 1
    top = keys[0]
    for i in range(size):
        top = max(top, keys[i])
    top = top >> shift
    starts[:] = 0
    for i in range(size):
        bucket = last - min(np.int64(top - (keys[i] >> shift)), last)
        out[i] = bucket
        starts[bucket] += 1
    total = 0
    for bucket in range(starts.size):
        count = starts[bucket]
        starts[bucket] = total
        total += count
    for i in range(size):
        place = starts[out[i]]
        starts[out[i]] = place + 1
        order[place] = i
        ordered[place] = keys[i]
    moves = 0
    for j in range(1, size):
        key = ordered[j]
        if ordered[j - 1] > key:
            who, place = order[j], j
            while place > 0 and ordered[place - 1] > key:
                ordered[place] = ordered[place - 1]
                order[place] = order[place - 1]
                place -= 1
            ordered[place] = key
            order[place] = who
            moves += j - place
            if moves > 16 * size:  # all in one bucket: an outlier, or hardly different keys
                order[:] = np.argsort(keys, kind="mergesort")
                break
    for j in range(size):
        out[order[j]] = j


@_compiled
def draw_ranked(values, bits, body, shift, buckets, key, start, low, high, own, out):  # type: ignore[no-untyped-def]
    """Keep each value of (rows, columns) by a probability from low to high, linear in its rank.

    bits: the values as words, of which `body` is the magnitude. own: divide what is kept by its
    probability. A row of one value has the mean probability.
    """
    rows, columns = values.shape
    order, ranks = np.empty(columns, dtype=np.int32), np.empty(columns, dtype=np.int32)
    keys, ordered = np.empty(columns, dtype=bits.dtype), np.empty(columns, dtype=bits.dtype)
    starts = np.empty(buckets, dtype=np.int32)
    words = np.empty(columns + 8 - columns % 4, dtype=np.uint32)
    step = (high - low) / (columns - 1) if columns > 1 else 0.0
    first = low if columns > 1 else (low + high) / 2
    for row in range(rows):
        given, target, word = values[row], out[row], bits[row]
        for i in range(columns):
            keys[i] = word[i] & body
        rank(keys, shift, starts, order, ordered, ranks)
        before = (start + row * columns) % 4
        philox(key, start + row * columns - before, words)
        drawn = words[before : before + columns]
        for i in range(columns):
            chance = first + step * ranks[i]
            number = np.float64(drawn[i] >> np.uint32(8)) * 2.0**-24
            scale = 1.0 / chance if own else 1.0
            target[i] = given[i] * scale if number < chance else 0.0
