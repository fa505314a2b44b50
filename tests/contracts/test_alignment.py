"""What every alignment must do, on random Unicode and with three kinds of tokenizer."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smelt.core import registry
from smelt.fuse.alignment import Places
from smelt.fuse.pieces import Dropped, piece_bytes, read_tokenizer
from smelt.fuse.tokenized import Tokenized, tokenize
from tests.fuse.trained import SHARED, SHARED_NAMES, trained

PAIRS = list(product(trained(), repeat=2))
TABLES = {name: piece_bytes(tokenizer) for name, (tokenizer, _) in trained().items()}

pytestmark = pytest.mark.parametrize("name", registry.names("alignment"))


def placed(name: str, texts: list[str]) -> list[Tokenized]:
    tokenizer, eos = trained()[name]
    rows = [{"text": text, "prompt": ""} for text in texts]
    found = tokenize(rows, tokenizer, TABLES[name], eos)
    return [row for row in found if isinstance(row, Tokenized)]


def spans(row: Tokenized, table: Any, cuts: np.ndarray) -> list[bytes]:
    """The bytes of a row's pieces between anchored steps, without the dummy space before them."""
    parts, start = [], 0
    for cut in [*(cuts + 1), len(row.ids) - 1]:
        parts.append(b"".join(table[token] for token in row.ids[start:cut]))
        start = cut
    dummy = len(b"".join(parts)) - row.byte_ends[-1]
    return [parts[0][dummy:], *parts[1:]]


def check_pair(align: Any, a: list[Tokenized], b: list[Tokenized], tables: Any, texts: Any) -> None:
    one, other = (Places.of([row.byte_ends for row in rows]) for rows in (a, b))
    anchors = align(one, other)
    back = align(other, one)
    assert np.array_equal(anchors.pivot, back.source)
    assert np.array_equal(anchors.source, back.pivot)
    for side in (anchors.pivot, anchors.source):
        assert (np.diff(side) > 0).all()
    assert np.array_equal(one.values[anchors.pivot], other.values[anchors.source])
    assert np.array_equal(one.samples[anchors.pivot], other.samples[anchors.source])
    for number, text in enumerate(texts):
        inside = one.samples[anchors.pivot] == number
        mine = anchors.pivot[inside] - one.offsets[number]
        theirs = anchors.source[inside] - other.offsets[number]
        # The last byte is an anchor, and nothing that ends together is left out.
        assert mine[-1] == a[number].num_steps - 1
        assert theirs[-1] == b[number].num_steps - 1
        assert set(a[number].byte_ends) & set(b[number].byte_ends) == set(a[number].byte_ends[mine])
        left, right = spans(a[number], tables[0], mine), spans(b[number], tables[1], theirs)
        assert left == right
        assert b"".join(left) == text.encode()


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=4))
@example(texts=["\r\n\t  x", "👩‍👩‍👧‍👦 e\u0301", "▁ <0x41> A", "1234567", " ", "a" * 300])
def test_anchors_are_exact(name: str, pair: tuple[str, str], texts: list[str]) -> None:
    a, b = (placed(side, texts) for side in pair)
    if len(a) == len(b) == len(texts):
        check_pair(registry.load("alignment", name), a, b, [TABLES[side] for side in pair], texts)


@pytest.mark.parametrize("side", trained())
@settings(max_examples=30, deadline=None)
@given(text=st.text(min_size=1, max_size=60))
def test_same_tokenizer_gives_the_identity(name: str, side: str, text: str) -> None:
    places = Places.of([row.byte_ends for row in placed(side, [text, "and one more"])])
    anchors = registry.load("alignment", name)(places, places)
    assert np.array_equal(anchors.pivot, np.arange(len(places.values)))
    assert np.array_equal(anchors.source, np.arange(len(places.values)))


def test_zero_width_steps_meet_from_the_last_one(name: str) -> None:
    align = registry.load("alignment", name)
    one = Places.of([np.array([0, 3, 3, 5]), np.array([2])])
    other = Places.of([np.array([3, 5, 5]), np.array([2])])
    anchors = align(one, other)
    assert anchors.pivot.tolist() == [2, 3, 4]
    assert anchors.source.tolist() == [0, 2, 3]


def test_samples_without_steps_are_no_trouble(name: str) -> None:
    align = registry.load("alignment", name)
    none = np.empty(0, np.int64)
    anchors = align(Places.of([none, np.array([4]), none]), Places.of([np.array([4]), none, none]))
    assert anchors.pivot.tolist() == anchors.source.tolist() == []
    assert align(Places.of([]), Places.of([])).pivot.tolist() == []


def test_wrong_input_is_refused(name: str) -> None:
    align = registry.load("alignment", name)
    up, down = Places.of([np.array([1, 2])]), Places.of([np.array([2, 1])])
    with pytest.raises(ValueError, match="decrease"):
        align(up, down)
    with pytest.raises(ValueError, match="same samples"):
        align(up, Places.of([np.array([1]), np.array([1])]))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tokenizers are not here")
def test_released_tokenizers_pair_up(name: str) -> None:
    align = registry.load("alignment", name)
    texts = ["def f(x):\n\treturn x + 1  # 中文, naïve, 2026\r\n", "  two leading blanks 👍🏽", "x"]
    rows = [{"text": text, "prompt": ""} for text in texts]
    sides = {}
    for folder in SHARED_NAMES:
        tokenizer = read_tokenizer(SHARED / folder)
        table = piece_bytes(tokenizer)
        found = tokenize(rows, tokenizer, table, 0)
        assert not any(isinstance(row, Dropped) for row in found), folder
        sides[folder] = (found, table)
    for one, other in product(sides, repeat=2):
        tables = [sides[one][1], sides[other][1]]
        check_pair(align, sides[one][0], sides[other][0], tables, texts)
