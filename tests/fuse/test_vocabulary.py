"""Byte-identical tokens of two vocabularies."""

import numpy as np
import pytest

from smelt.fuse.pieces import piece_bytes, read_tokenizer
from smelt.fuse.vocabulary import shared
from tests.fuse.trained import SHARED, SHARED_NAMES, trained


def test_by_hand() -> None:
    pivot = [None, b"a", b"b", b"ab", b"a"]
    source = [b"ab", b"x", None, b"a", b"b", b"b"]
    assert shared(pivot, source).tolist() == [3, -1, -1, 4, -1, 2]
    assert shared(pivot, source, pivot_eos=0, source_eos=2).tolist() == [3, -1, 0, 4, -1, 2]


def test_equal_ids_meet_first_and_the_rest_by_the_highest() -> None:
    assert shared([b"a", b"x", b"a"], [b"a", b"y", b"q", b"a"]).tolist() == [0, -1, -1, 2]


def test_eos_by_role_takes_the_place_of_a_text_twin() -> None:
    assert shared([b"e", b"a"], [b"a", b"e"], pivot_eos=0, source_eos=0).tolist() == [0, -1]


def test_same_tokenizer_is_the_identity() -> None:
    for tokenizer, eos in trained().values():
        table = piece_bytes(tokenizer)
        mapping = shared(table, table, pivot_eos=eos, source_eos=eos)
        for token_id, piece in enumerate(table):
            assert mapping[token_id] == (token_id if piece is not None or token_id == eos else -1)


@pytest.mark.parametrize("pivot", trained())
@pytest.mark.parametrize("source", trained())
def test_one_to_one_and_transposed(pivot: str, source: str) -> None:
    tables = [piece_bytes(trained()[name][0]) for name in (pivot, source)]
    there, back = shared(tables[0], tables[1]), shared(tables[1], tables[0])
    named = np.flatnonzero(there >= 0)
    assert len(named) > 100
    assert len(set(there[named])) == len(named)
    assert np.array_equal(back[there[named]], named)
    assert all(tables[1][i] == tables[0][there[i]] for i in named)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tokenizers are not here")
def test_twins_between_mistral_and_qwen_as_measured() -> None:
    tables = [piece_bytes(read_tokenizer(SHARED / name)) for name in ("mistral-7b-v0.1", "qwen2.5")]
    # 29,237 were measured (strings: 24,764; design/fusion.md, section 3); three of them are the
    # texts <unk>, <s>, </s> in Qwen2.5, which are special tokens in Mistral and match by role only.
    assert int((shared(*tables) >= 0).sum()) == 29_237 - 3
    assert {b"<unk>", b"<s>", b"</s>"} <= set(tables[1])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tokenizers are not here")
@pytest.mark.parametrize("name", SHARED_NAMES)
def test_the_highest_id_is_the_one_that_encoding_emits(name: str) -> None:
    tokenizer = read_tokenizer(SHARED / name)
    table = piece_bytes(tokenizer)
    found: dict[bytes, list[int]] = {}
    for token_id, piece in enumerate(table):
        if piece is not None:
            found.setdefault(piece, []).append(token_id)
    twins = {piece: ids for piece, ids in found.items() if len(ids) > 1}
    for piece, ids in twins.items():
        # Behind a word, so that no dummy space hides the token.
        emitted = tokenizer.encode("x" + piece.decode(), add_special_tokens=False).ids
        assert not set(ids[:-1]) & set(emitted), piece
