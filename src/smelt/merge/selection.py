"""The k-th largest number of a streamed tensor, exactly and without sorting."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from smelt.merge import compiled, ops
from smelt.merge.blocks import Block, Blocks

Ranks: TypeAlias = Sequence[Sequence[int]]
"""Per series the k of each k-th largest that is asked for: 1 is the largest."""
Values: TypeAlias = Callable[[Block], ops.Array]
DIGIT = 16


def kth_largest(
    tensor: Blocks,
    values: Values,
    ranks: Ranks | Callable[[NDArray[Any]], Ranks],
    *,
    signed: bool = False,
) -> list[list[float]]:
    """Per series the k-th largest of its numbers, for each k; infinity for k = 0 or no numbers.

    values: block -> (series, rows, columns), computed anew in each pass. They count by magnitude;
    `signed`: by value. ranks may be a function of how many numbers of each series are not 0. A
    digit of 16 bits is counted in each pass over the tensor, from the highest: two passes for
    float32, four for float64.
    """
    kind: Any = None
    nonzero: Any = 0
    counts: Any = None
    for block in tensor:
        numbers = ops.to_numpy(values(block))
        numbers = np.ascontiguousarray(numbers).reshape(len(numbers), -1)
        kind = numbers.dtype
        if counts is None:
            counts = np.zeros((len(numbers), 1 << DIGIT), dtype=np.int64)
        digit, shift = _body(kind, signed) >> _top(kind), _top(kind)
        word = _word(kind)
        compiled.first_histogram(_words(numbers, signed), word(digit), word(shift), counts)
        if callable(ranks):
            nonzero = nonzero + np.count_nonzero(numbers, axis=1)
    asked = ranks(np.zeros(1) if kind is None else nonzero) if callable(ranks) else ranks
    if kind is None:
        return [[float("inf")] * len(one) for one in asked]
    series = np.repeat(np.arange(len(asked)), [len(one) for one in asked])
    left = [k for one in asked for k in one]
    found = np.zeros(len(left), dtype=np.uint64)
    _descend(found, left, counts[series])
    for shift in range(_top(kind) - DIGIT, -1, -DIGIT):
        counts = np.zeros((len(found), 1 << DIGIT), dtype=np.int64)
        for block in tensor:
            numbers = ops.to_numpy(values(block))
            numbers = np.ascontiguousarray(numbers).reshape(len(numbers), -1)
            body = np.uint64(_body(kind, signed))
            compiled.histogram(_words(numbers, signed), body, shift, series, found, counts)
        _descend(found, left, counts)
    chosen = iter(_numbers(found, kind, signed).tolist())
    pairs = [[(k, next(chosen)) for k in one] for one in asked]
    return [[number if k > 0 else float("inf") for k, number in one] for one in pairs]


def _descend(found: NDArray[Any], left: list[int], counts: NDArray[Any]) -> None:
    """Append to each prefix the digit in which its k-th largest lies; k becomes the k in there."""
    for place, row in enumerate(counts):
        from_above = np.cumsum(row[::-1])
        steps = min(int(np.searchsorted(from_above, max(1, left[place]))), len(row) - 1)
        left[place] -= int(from_above[steps - 1]) if steps else 0
        found[place] = (found[place] << np.uint64(DIGIT)) | np.uint64(len(row) - 1 - steps)


def _word(kind: Any) -> Any:
    return np.uint64 if np.dtype(kind).itemsize == 8 else np.uint32


def _top(kind: Any) -> int:
    """Where the highest digit begins."""
    return 8 * int(np.dtype(kind).itemsize) - DIGIT


def _body(kind: Any, signed: bool) -> int:
    """The bits of a word that count: for magnitudes all but the sign."""
    return int((1 << (_top(kind) + DIGIT - (not signed))) - 1)


def _words(numbers: NDArray[Any], signed: bool) -> NDArray[Any]:
    """Words that are ordered as the magnitudes are, or (`signed`) as the numbers are."""
    bits: NDArray[Any] = numbers.view(_word(numbers.dtype))
    if not signed:
        return bits
    sign = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    return np.asarray(np.where(bits & sign, ~bits, bits | sign))


def _numbers(words: NDArray[Any], kind: Any, signed: bool) -> NDArray[Any]:
    bits: NDArray[Any] = words.astype(_word(kind))
    sign = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    if signed:
        bits = np.where(bits & sign, bits & ~sign, ~bits)
    return bits.view(kind)
