"""Compiled kernels of the CPU path: one pass over memory each, no temporaries, no interpreter lock.

Each has its plain counterpart for torch tensors in `ops`, which tests compare it with. Sums are
float64 and their order depends on the block alone, never on threads. numba keeps the machine code
beside this file (or in the user's cache), so that compiling happens once per machine.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])
_PIECE = 2048  # elements whose float64 sums stay in the first-level cache


def _compiled(function: F) -> F:
    kernel: F = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return kernel


def _compiled_sum(function: F) -> F:
    # Leave to reassociate sums is what lets the compiler use vector registers for them.
    kernel: F = numba.njit(
        nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"}
    )(function)
    return kernel


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
def add_deltas(base, deltas, weights, scale, elect, normalize, out):  # type: ignore[no-untyped-def]
    """out = base + scale * (weighted sum or mean of the task vectors, after sign election)."""
    total, mass, divisor = np.empty(_PIECE), np.empty(_PIECE), np.empty(_PIECE)
    for start in range(0, out.size, _PIECE):
        size = min(_PIECE, out.size - start)
        total[:size] = 0.0
        for k in range(weights.size):
            weight, row = weights[k], deltas[k, start : start + size]
            for i in range(size):
                total[i] += weight * np.float64(row[i])
        if elect:
            mass[:size] = total[:size]
            total[:size] = 0.0
            divisor[:size] = 0.0
            for k in range(weights.size):
                weight, row = weights[k], deltas[k, start : start + size]
                for i in range(size):
                    part = weight * np.float64(row[i])
                    # A tie counts as +, and zeros agree with nobody.
                    agrees = part > 0.0 if mass[i] >= 0.0 else part < 0.0
                    total[i] += part if agrees else 0.0
                    divisor[i] += weight if agrees else 0.0
            if normalize:
                for i in range(size):
                    total[i] /= divisor[i] if abs(divisor[i]) >= 1e-8 else 1.0
        target, row = out[start : start + size], base[start : start + size]
        for i in range(size):
            target[i] = np.float64(row[i]) + scale * total[i]


@_compiled
def keep_between(deltas, low, high, out):  # type: ignore[no-untyped-def]
    """Zero what is smaller in magnitude than low[k], or not smaller than high[k]."""
    for k in range(deltas.shape[0]):
        least, most = low[k], high[k]
        for i in range(deltas.shape[1]):
            size = abs(deltas[k, i])
            out[k, i] = deltas[k, i] if size >= least and size < most else 0.0


@_compiled
def histogram(bits, shift, width, prefixes, counts):  # type: ignore[no-untyped-def]
    """Count, per row of `bits`, the `width`-bit digits at `shift` of words with its prefix.

    prefixes: the bits above the digit that a word must have, per row; counts is added to.
    """
    mask = np.uint64((1 << width) - 1)
    above = np.uint64(shift + width)
    down = np.uint64(shift)
    for k in range(bits.shape[0]):
        prefix = prefixes[k]
        for i in range(bits.shape[1]):
            word = np.uint64(bits[k, i])
            if word >> above == prefix:
                counts[k, (word >> down) & mask] += 1


@_compiled
def first_histogram(bits, shift, counts):  # type: ignore[no-untyped-def]
    """`histogram` of the highest digit, where every word counts and the sign bit is dropped."""
    for k in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            counts[k, (bits[k, i] >> shift) & 0x7FFF] += 1


@_compiled_sum
def gram(vectors, out):  # type: ignore[no-untyped-def]
    """Inner products of all pairs of rows, in float64, added to `out` (count, count)."""
    count, size = vectors.shape
    left, right = np.empty(_PIECE), np.empty(_PIECE)
    for start in range(0, size, _PIECE):
        length = min(_PIECE, size - start)
        for a in range(count):
            row = vectors[a, start : start + length]
            for i in range(length):
                left[i] = row[i]
            for b in range(a + 1):
                row = vectors[b, start : start + length]
                for i in range(length):
                    right[i] = row[i]
                total = 0.0
                for i in range(length):
                    total += left[i] * right[i]
                out[a, b] += total
                if a != b:
                    out[b, a] += total


@_compiled_sum
def absolute_sums(values, out):  # type: ignore[no-untyped-def]
    """Sum of magnitudes of every row, in float64, added to `out`."""
    for k in range(values.shape[0]):
        total = 0.0
        for i in range(values.shape[1]):
            total += abs(np.float64(values[k, i]))
        out[k] += total


@_compiled
def variances(deltas, out):  # type: ignore[no-untyped-def]
    """Population variance over rows, per column, in float64 and rounded once."""
    count = deltas.shape[0]
    mean, total = np.empty(_PIECE), np.empty(_PIECE)
    for start in range(0, out.size, _PIECE):
        size = min(_PIECE, out.size - start)
        mean[:size] = 0.0
        total[:size] = 0.0
        for k in range(count):
            row = deltas[k, start : start + size]
            for i in range(size):
                mean[i] += np.float64(row[i]) / count
        for k in range(count):
            row = deltas[k, start : start + size]
            for i in range(size):
                gap = np.float64(row[i]) - mean[i]
                total[i] += gap * gap
        target = out[start : start + size]
        for i in range(size):
            target[i] = total[i] / count


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
