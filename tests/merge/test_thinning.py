"""Exact selection and random choice, against sorting and against numbers drawn one by one."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smelt.merge import drawing, ops, thinning
from smelt.merge.blocks import Blocks, Random
from smelt.merge.selection import kth_largest
from smelt.merge.sources import ArraySource

Array = NDArray[Any]


def _blocks(*experts: Array, base: Array | None = None, block_elements: int = 64) -> Blocks:
    start = np.zeros_like(experts[0]) if base is None else base
    names = [str(place) for place in range(len(experts))]
    return Blocks("a", ArraySource(start), [ArraySource(one) for one in experts], names,
                  block_elements=block_elements)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.sampled_from(["normal", "coarse", "zeros", "tiny"]),
    st.tuples(st.integers(1, 20), st.integers(1, 30)),
    st.integers(0, 2**32 - 1),
)
def test_kth_largest_is_what_sorting_finds(
    dtype: Any, signed: bool, kind: str, shape: tuple[int, int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    series = random.normal(size=(2, *shape))
    if kind == "coarse":
        series = np.round(series)
    if kind == "zeros":
        series = series * (random.random(series.shape) < 0.1)
    if kind == "tiny":
        series = series * 1e-40
    series = series.astype(dtype)
    size = series[0].size
    ranks = [[1, size], [int(random.integers(1, size + 1)), 0]]
    found = kth_largest(_blocks(*series), lambda block: block.experts, ranks, signed=signed)
    for one, ks, numbers in zip(series, ranks, found, strict=True):
        ordered = np.sort(one.ravel() if signed else np.abs(one.ravel()))[::-1]
        assert numbers == [float(ordered[k - 1]) if k else math.inf for k in ks]


def test_ranks_may_follow_from_how_many_are_not_zero() -> None:
    tensor = _blocks(np.array([[0.0, 3.0, 0.0, 1.0, 2.0]]))
    found = kth_largest(tensor, lambda block: block.experts, lambda seen: [[int(seen[0])]])
    assert found == [[1.0]]


def test_kth_largest_of_nothing_is_infinite() -> None:
    empty = _blocks(np.zeros((0, 3)))
    assert kth_largest(empty, lambda block: block.experts, [[1], [2, 3]]) == [
        [math.inf],
        [math.inf, math.inf],
    ]


@pytest.mark.parametrize("columns", [1, 2, 37, 900, 5000])
@pytest.mark.parametrize("kind", ["normal", "coarse", "outlier", "narrow", "zeros", "subnormal"])
@pytest.mark.parametrize("word", [np.uint32, np.uint64])
def test_rank_is_that_of_a_stable_sort(columns: int, kind: str, word: Any) -> None:
    random = np.random.default_rng(columns)
    values = np.abs(random.normal(size=columns))
    if kind == "coarse":
        values = np.round(values * 3)
    if kind == "outlier":
        values[columns // 2] = 1e30
    if kind == "narrow":
        values = 1 + values * 1e-4
    if kind == "zeros":
        values = values * 0
    if kind == "subnormal":
        values = values * 1e-42
    keys = values.astype(np.float64 if word is np.uint64 else np.float32).view(word)
    out, order = np.empty(columns, np.int32), np.empty(columns, np.int32)
    starts = np.empty(16 << 5, np.int32)
    shift = word((52 if word is np.uint64 else 23) - 5)
    drawing.rank(keys, shift, starts, order, np.empty_like(keys), out)
    expected = np.empty(columns, np.int32)
    expected[np.argsort(keys, kind="stable")] = np.arange(columns)
    np.testing.assert_array_equal(out, expected)


def test_philox_words_are_the_published_ones() -> None:
    """The known answers of Random123 (kat_vectors) for counter and key zero, and all ones."""
    words = np.empty(4, dtype=np.uint32)
    drawing.philox(np.uint64(0), 0, words)
    assert [hex(word) for word in words] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@pytest.mark.parametrize("start", [0, 1, 2, 3, 5, 1000])
def test_random_numbers_depend_on_their_index_alone(start: int) -> None:
    shape = np.zeros((7, 11), np.float32)
    whole = ops.uniform(99, 0, np.zeros(start + shape.size, np.float32))
    part = ops.uniform(99, start, shape)
    np.testing.assert_array_equal(part.ravel(), whole[start:])
    assert part.min() >= 0
    assert part.max() < 1


@pytest.mark.parametrize("density", [0.0, 2.0**-25, 1e-3, 0.5, 0.999, 1 - 2.0**-25, 1.0])
@pytest.mark.parametrize("start", [0, 3, 4098])
def test_drop_keeps_what_its_number_says(density: float, start: int) -> None:
    deltas = np.random.default_rng(0).normal(size=(2, 50, 70)).astype(np.float32)
    random = Random((11, 12), start, deltas)
    found = thinning.drop(deltas, random, [density] * 2, [3.0, 1.0])
    for place, factor in enumerate([3.0 if density < 1 else 1.0, 1.0]):
        kept = random.uniform(place).astype(np.float64) < density
        np.testing.assert_array_equal(found[place], np.where(kept, deltas[place] * factor, 0))


def test_kept_bits_give_back_what_was_drawn() -> None:
    """mergekit's rule for DELLA draws once; the second pass applies the bits of the first."""
    experts = np.random.default_rng(1).normal(size=(2, 9, 13))
    tensor = _blocks(*experts, block_elements=30)
    kept = thinning.kept_by_rank(tensor, [0.5, 0.3], [0.1, 0.2])
    for block in tensor:
        drawn = thinning.drop_by_rank(
            block.experts, block.random, [0.5, 0.3], [0.1, 0.2], rescale=False
        )
        scaled = drawn * np.array(kept.factors)[:, None, None]
        np.testing.assert_allclose(
            kept.within(block.experts, block.random.start), scaled, rtol=1e-15
        )
    assert len(kept.bits) > 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_gram_by_rows_and_whole(count: int) -> None:
    random = np.random.default_rng(2)
    base = random.normal(size=(6, 5000)).astype(np.float32)
    experts = random.normal(size=(count, 6, 5000)).astype(np.float32)
    moved = experts.astype(np.float64) - base
    rows = np.einsum("irc,jrc->rij", moved, moved)
    np.testing.assert_allclose(ops.row_grams(experts, base), rows, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(ops.gram(experts, base), rows.sum(axis=0), rtol=1e-12, atol=1e-9)
    plain = np.einsum("irc,jrc->ij", experts.astype(np.float64), experts)
    np.testing.assert_allclose(ops.gram(experts), plain, rtol=1e-12, atol=1e-9)


def test_variances_of_equal_numbers_are_zero() -> None:
    values = np.random.default_rng(3).normal(size=(4, 3, 700))
    np.testing.assert_allclose(ops.variances(values), np.var(values, axis=0), rtol=1e-10)
    assert not ops.variances(np.repeat(values[:1], 4, axis=0)).any()
