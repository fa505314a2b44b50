"""Compiled kernels of the methods that drop at random: Philox, keep and drop, ranks in a row."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.merge.jit import compiled

_PIECE = 2048  # elements whose float64 sums stay in the first-level cache


@compiled
def philox(key: Any, start: Any, out: NDArray[Any]) -> None:
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


@compiled
def draw(
    values: NDArray[Any], key: Any, start: Any, bound: Any, factor: Any, out: NDArray[Any]
) -> None:
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


@compiled
def rank(
    keys: NDArray[Any],
    shift: Any,
    starts: NDArray[Any],
    order: NDArray[Any],
    ordered: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """out[i] = how many keys come before key i, ascending and stable.

    One counting sort by the digits from `shift` on, the largest keys in the last of the buckets
    `starts`, all that are far below them in the first; insertion sorts the rest. The other arrays
    are room to work in, as long as `keys`.
    """
    size, last = keys.size, starts.size - 1
    largest = keys[0]
    for i in range(size):
        largest = max(largest, keys[i])
    top = largest >> shift
    starts[:] = 0
    for i in range(size):
        below = np.int64(top - (keys[i] >> shift))
        bucket = last - (below if below < last else last)
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


@compiled
def draw_ranked(
    values: NDArray[Any],
    bits: NDArray[Any],
    body: Any,
    shift: Any,
    buckets: Any,
    key: Any,
    start: Any,
    low: Any,
    high: Any,
    own: Any,
    out: NDArray[Any],
) -> None:
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
