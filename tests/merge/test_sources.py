"""Rows from files and memory, rounding to stored types, and blocks of any size."""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smelt.checkpoint.reader import Checkpoint
from smelt.checkpoint.writer import write_tensors
from smelt.core.errors import UserError
from smelt.merge import drawing
from smelt.merge.blocks import Blocks
from smelt.merge.sources import ArraySource, Files, FileSource, load, store

BITS = st.integers(0, 2**32 - 1)


@settings(deadline=None)  # the first call compiles
@given(st.lists(BITS, min_size=1, max_size=50))
def test_rounding_to_bfloat16_is_that_of_ml_dtypes(words: list[int]) -> None:
    values = np.array(words, dtype=np.uint32).view(np.float32).reshape(1, -1)
    found, bad = store(values, "BF16")
    with np.errstate(over="ignore"):
        expected = values.astype(ml_dtypes.bfloat16)
    nan = np.isnan(values)
    np.testing.assert_array_equal(found.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])
    assert np.isnan(found.astype(np.float32)[nan]).all()
    assert bad == np.count_nonzero(~np.isfinite(expected.astype(np.float32)))


WORDS = np.arange(0x7F80, dtype=np.uint16)
"""The bfloat16 that are no negative and finite, ascending."""
GRID = WORDS.view(ml_dtypes.bfloat16).astype(np.float64)


@settings(deadline=None)
@given(st.integers(0, len(GRID) - 2), st.sampled_from([0.25, 0.5, 0.75]), st.integers(-3, 3),
       st.booleans())  # fmt: skip
@example(0x3F80, 0.5, 1, False)
def test_float64_is_rounded_to_bfloat16_once(
    place: int, share: float, nudge: int, negative: bool
) -> None:
    """Around every kind of point between two neighbours, by exact fractions."""
    low, high = GRID[place], GRID[place + 1]
    value = float(low + share * (high - low))
    value = float(np.nextafter(value, np.inf)) if nudge > 0 else value
    value += nudge * abs(value) * 2.0**-45
    down, up = Fraction(value) - Fraction(low), Fraction(high) - Fraction(value)
    even = int(WORDS[place]) % 2 == 0
    expected = low if down < up or (down == up and even) else high
    sign = -1.0 if negative else 1.0
    found, bad = store(np.array([[sign * value]]), "BF16")
    assert found.astype(np.float64).item() == sign * expected
    assert bad == 0


def test_rounding_of_float64_at_the_ends() -> None:
    values = np.array([[1 + 2.0**-8 + 2.0**-40, 1e300, -1e300, np.inf, np.nan, -0.0, 1e-300]])
    found, bad = store(values, "BF16")
    expected = np.array([[1.0078125, np.inf, -np.inf, np.inf, np.nan, -0.0, 0.0]])
    np.testing.assert_array_equal(found.astype(np.float64), expected)
    np.testing.assert_array_equal(np.signbit(found)[0, [5, 6]], [True, False])
    assert bad == 4


def test_nothing_may_be_the_first_that_a_thread_reads(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    files = Files()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(files.read, tmp_path / "file", 1, 0).result().size == 0
        assert bytes(pool.submit(files.read, tmp_path / "file", 1, 2).result()) == b"bc"
    files.close()


def test_every_bfloat16_is_read_exactly() -> None:
    words = np.arange(1 << 16, dtype=np.uint16)
    values = words.view(ml_dtypes.bfloat16).reshape(256, 256)
    out = np.empty((256, 256), dtype=np.float32)
    bad = load(values, out)
    np.testing.assert_array_equal(out, values.astype(np.float32))
    assert bad == np.count_nonzero(~np.isfinite(out))


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3), (2, 3, 4), (0, 3), (4, 0)])
def test_blocks_of_any_size_hold_the_tensor(
    kind: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    values = np.asarray(np.random.default_rng(0).normal(size=shape)).astype(np.dtype(kind))
    double = np.asarray(values + values)
    (tmp_path / "config.json").write_text("{}")
    write_tensors(tmp_path, {"x": values, "y": double})
    checkpoint, files = Checkpoint.open(tmp_path), Files()
    sources = [FileSource(checkpoint.spec(name), files) for name in ("x", "y")]
    for size in (1, 5, 1000):
        tensor = Blocks("x", sources[0], [sources[1]], ["a"], block_elements=size)
        blocks = [(b.base.copy(), b.experts.copy()) for b in tensor if b.base is not None]
        wide = np.float64 if kind == "float64" else np.float32
        if values.size == 0:
            assert blocks == []
            continue
        base = np.concatenate([one for one, _ in blocks]).reshape(shape)
        expert = np.concatenate([one[0] for _, one in blocks]).reshape(shape)
        assert base.dtype == wide
        np.testing.assert_array_equal(base, values.astype(wide))
        np.testing.assert_array_equal(expert, double.astype(wide))
    files.close()


def test_file_that_shrank_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_tensors(tmp_path, {"x": np.ones(100, dtype=np.float32)})
    checkpoint, files = Checkpoint.open(tmp_path), Files()
    path = checkpoint.spec("x").file
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="ends at byte"):
        FileSource(checkpoint.spec("x"), files).rows(0, np.empty((1, 100), dtype=np.float32))
    files.close()


# Known answers of Random123 (kat_vectors): counter, key, four words.
PHILOX: list[tuple[int, int, list[int]]] = [
    (0, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX)
def test_philox_has_the_published_words(counter: int, key: int, expected: list[int]) -> None:
    out = np.empty(4, dtype=np.uint32)
    drawing.philox(np.uint64(key), 4 * counter, out)
    assert out.tolist() == expected


def _philox(counter: int, key: int) -> list[int]:
    """Philox4x32-10 written out from the paper, for counters below 2^64."""
    words = [counter & 0xFFFFFFFF, counter >> 32, 0, 0]
    low, high = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        left, right = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [
            (right >> 32) ^ words[1] ^ low, right & 0xFFFFFFFF,
            (left >> 32) ^ words[3] ^ high, left & 0xFFFFFFFF,
        ]  # fmt: skip
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return words


@given(st.integers(0, 2**60), st.integers(0, 2**64 - 1))
def test_philox_follows_the_paper(counter: int, key: int) -> None:
    out = np.empty(8, dtype=np.uint32)
    drawing.philox(np.uint64(key), 4 * counter, out)
    assert out.tolist() == _philox(counter, key) + _philox(counter + 1, key)


def _drawn(columns: int, block_elements: int, order: list[int]) -> NDArray[Any]:
    source = ArraySource(np.zeros((50, columns), dtype=np.float32))
    names = [["one", "two"][place] for place in order]
    tensor = Blocks("t", source, [source] * 2, names, seed=7, block_elements=block_elements)
    parts = [[b.random.uniform(names.index(one)) for b in tensor] for one in ("one", "two")]
    return np.stack([np.concatenate(part) for part in parts])


def test_random_numbers_do_not_depend_on_blocks_or_order() -> None:
    whole = _drawn(7, 10_000, [0, 1])
    for size in (1, 7, 30, 77):
        np.testing.assert_array_equal(_drawn(7, size, [0, 1]), whole)
    np.testing.assert_array_equal(_drawn(7, 30, [1, 0]), whole)
    assert not np.array_equal(whole[0], whole[1])
    assert 0 <= whole.min() < whole.max() < 1
