"""Byte tables and byte ends of real kinds of tokenizer."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from smelt.core.errors import UserError
from smelt.fuse.pieces import Dropped, ends, piece_bytes, read_tokenizer
from smelt.fuse.tokenized import Tokenized, marks, tokenize
from tests.fuse.trained import SHARED, SHARED_NAMES, byte_bpe, trained


def one(text: str, name: str, prompt: str = "") -> Tokenized:
    tokenizer, eos = trained()[name]
    found = tokenize([{"text": text, "prompt": prompt}], tokenizer, piece_bytes(tokenizer), eos)[0]
    assert isinstance(found, Tokenized)
    return found


def test_byte_level_alphabet_is_inverted_symbol_by_symbol() -> None:
    tokenizer, _ = trained()["byte_bpe"]
    table = piece_bytes(tokenizer)
    singles = sorted(piece for piece in table if piece is not None and len(piece) == 1)
    assert singles == [bytes([byte]) for byte in range(256)]
    # The letter è is written with the symbols of its two bytes; the symbol è is byte 0xE8.
    assert table[tokenizer.token_to_id("\u00e8")] == b"\xe8"
    assert table[tokenizer.token_to_id("\u0120")] == b" "
    assert table[tokenizer.token_to_id("<|end|>")] is None


def test_sentencepiece_pieces() -> None:
    tokenizer, _ = trained()["sentencepiece"]
    table = piece_bytes(tokenizer)
    assert table[:3] == [None, None, None]
    assert table[tokenizer.token_to_id("<0x0A>")] == b"\n"
    assert table[tokenizer.token_to_id("\u2581")] == b" "
    assert table[tokenizer.token_to_id("\u2581the")] == b" the"


def test_added_tokens_stand_for_their_text_and_special_ones_for_nothing() -> None:
    tokenizer = byte_bpe()
    tokenizer.add_tokens([AddedToken("    ", normalized=False)])
    tokenizer.add_special_tokens(["<|pad|>"])
    table = piece_bytes(tokenizer)
    assert table[tokenizer.token_to_id("    ")] == b"    "
    assert table[tokenizer.token_to_id("<|pad|>")] is None
    found = tokenize([{"text": "a    b", "prompt": ""}], tokenizer, table, 0)[0]
    assert isinstance(found, Tokenized)
    assert found.byte_ends.tolist() == [1, 5, 6]


@pytest.mark.parametrize("kind", ["wordpiece", "wordlevel", "suffix", "bare"])
def test_tokenizers_that_lose_bytes_are_refused(kind: str) -> None:
    model = {
        "wordpiece": models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
        "wordlevel": models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
        "suffix": models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>"),
        "bare": models.BPE({"a": 0}, []),
    }[kind]
    tokenizer = Tokenizer(model)
    if kind == "suffix":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    with pytest.raises(UserError, match="do not add up to the bytes"):
        piece_bytes(tokenizer)


def test_unigram_with_marks_is_exact() -> None:
    vocabulary = [("<unk>", 0.0), ("\u2581", -1.0), ("\u2581ab", -1.5), ("a", -2.0), ("b", -2.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    table = piece_bytes(tokenizer)
    assert table == [None, b" ", b" ab", b"a", b"b"]
    rows = [{"text": "ab a", "prompt": ""}, {"text": "ax", "prompt": ""}]
    good, unknown = tokenize(rows, tokenizer, table, 0)
    assert isinstance(good, Tokenized)
    assert good.byte_ends.tolist() == [2, 3, 4]
    assert isinstance(unknown, Dropped)
    assert unknown.reason == "special_token"


def test_ends_by_hand() -> None:
    table = [None, b" a", b"b", b"\xc3", b"\xa9", b" "]
    found, lead = ends([1, 2, 3, 4], table, "ab\u00e9".encode())
    assert (found.tolist(), lead) == ([1, 2, 3, 4], 1)
    found, lead = ends([1, 2], table, b" ab")
    assert (found.tolist(), lead) == ([2, 3], 0)
    found, lead = ends([5, 2], table, b"b")
    assert (found.tolist(), lead) == ([0, 1], 1)
    for ids, text, reason in [
        ([1], b"b", "no_round_trip"),
        ([1, 0], b"a", "special_token"),
        ([5, 5, 2], b"b", "no_round_trip"),
        ([2], b"", "no_round_trip"),
    ]:
        with pytest.raises(Dropped, match=reason):
            ends(ids, table, text)


def test_texts_that_do_not_round_trip_are_named() -> None:
    tokenizer = byte_bpe()
    tokenizer.normalizer = normalizers.NFC()
    texts = ["e\u0301", "fine", "<|end|>", "", "bad \ud800"]
    rows = [{"text": text, "prompt": ""} for text in texts]
    found = tokenize(rows, tokenizer, piece_bytes(tokenizer), 0)
    names = [row.reason if isinstance(row, Dropped) else "kept" for row in found]
    assert names == ["no_round_trip", "kept", "special_token", "empty", "invalid_unicode"]


def test_a_prompt_must_be_a_proper_prefix() -> None:
    tokenizer, eos = trained()["byte_bpe"]
    for prompt in ("other", "text"):
        with pytest.raises(UserError, match="not a proper prefix"):
            tokenize([{"text": "text", "prompt": prompt}], tokenizer, piece_bytes(tokenizer), eos)


@pytest.mark.parametrize("name", trained())
@settings(max_examples=60, deadline=None)
@given(prompt=st.text(min_size=1, max_size=20), response=st.text(min_size=1, max_size=20))
def test_pairs_end_where_their_text_ends(name: str, prompt: str, response: str) -> None:
    tokenizer, eos = trained()[name]
    table = piece_bytes(tokenizer)
    text = prompt + response
    row = tokenize([{"text": text, "prompt": prompt}], tokenizer, table, eos)[0]
    if isinstance(row, Dropped):
        # Only what spells a special or unknown token may fall out.
        assert row.reason == "special_token"
        return
    assert row.ids[-1] == eos
    assert row.num_steps == len(row.ids) - 1 - row.first
    assert row.byte_ends[0] == len(prompt.encode())
    assert row.byte_ends[-1] == len(text.encode())
    assert (np.diff(row.byte_ends[row.pending :]) >= 0).all()
    # A prefix's bytes are those of the tokens read, less the dummy spaces.
    dummies = len(b"".join(table[i] or b"" for i in row.ids[:-1])) - len(text.encode())
    assert dummies == (2 if name == "sentencepiece" else 0)
    assert row.pending == (name == "sentencepiece")


def test_the_step_before_a_dummy_space_does_not_meet_the_others() -> None:
    """A byte-level student expects "4", SentencePiece expects " 4": not the same event."""
    plain, marked = one("2+2=4", "byte_bpe", "2+2="), one("2+2=4", "sentencepiece", "2+2=")
    places = [marks(r.byte_ends, np.array([0]), np.array([r.pending])) for r in (plain, marked)]
    assert plain.byte_ends[0] == marked.byte_ends[0] == 4
    assert places[0][0] == 8
    assert places[1][0] == 7
    assert places[0][-1] == places[1][-1] == 10


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tokenizers are not here")
@pytest.mark.parametrize("name", SHARED_NAMES)
def test_released_tokenizers_round_trip(name: str) -> None:
    tokenizer = read_tokenizer(SHARED / name)
    table = piece_bytes(tokenizer)
    assert len(table) >= tokenizer.get_vocab_size()
    text = "  tabs\t\tand\r\nCRLF, 3.14159, 中文字, 👩‍👩‍👧, naïve — ok   \n\n\n        x"
    found = tokenize([{"text": text, "prompt": text[:9]}], tokenizer, table, 0)[0]
    assert isinstance(found, Tokenized)
    assert found.byte_ends[-1] == len(text.encode())
    # The table against the tokenizer's own decoder, wherever a token is text on its own.
    spec = json.loads(tokenizer.to_str())
    for token_id in range(0, len(table), 97):
        piece = table[token_id]
        if piece is None or spec["model"].get("byte_fallback"):
            continue
        assert tokenizer.decode([token_id]) == piece.decode(errors="replace")


def test_damaged_or_missing_tokenizers_are_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="no such file"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        read_tokenizer(tmp_path)


def test_truncation_and_padding_settings_are_left_out(tmp_path) -> None:  # type: ignore[no-untyped-def]
    tokenizer = byte_bpe()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "a b c d e f g"
    assert read_tokenizer(tmp_path).encode(text).ids == byte_bpe().encode(text).ids
