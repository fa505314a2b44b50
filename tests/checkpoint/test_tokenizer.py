"""Tokenizers: round trips, control tokens, cuts, and the same ids in transformers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers import pre_tokenizers as pre
from transformers import AutoTokenizer

from smelt.checkpoint.tokenizer import TextTokenizer, open_tokenizer, train_tokenizer
from smelt.core.errors import UserError

CODE = Path(json.__file__).with_name("decoder.py").read_text()
PROSE = CODE + "He said: 'Well... (maybe)  -- no!?' 2024, 3.14; naïve 你好 " * 9
KINDS = ("byte_bpe", "sentencepiece_bpe")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextTokenizer]:
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        train_tokenizer(PROSE.splitlines(True), folder, kind=kind, vocab_size=500)  # type: ignore[arg-type]
        found[kind] = open_tokenizer(folder)
    return found


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_round_trip(trained: dict[str, TextTokenizer], kind: str, text: str) -> None:
    tokenizer = trained[kind]
    if kind == "sentencepiece_bpe":
        text = text.replace("▁", " ")  # the mark of a blank is read as a blank
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch([text, text]) == [tokenizer.encode(text)] * 2


def test_the_blank_mark_is_the_one_text_that_changes(trained: dict[str, TextTokenizer]) -> None:
    tokenizer = trained["sentencepiece_bpe"]
    assert tokenizer.decode(tokenizer.encode("a▁b")) == "a b"


@pytest.mark.parametrize("kind", KINDS)
def test_text_never_becomes_a_control_token(trained: dict[str, TextTokenizer], kind: str) -> None:
    tokenizer = trained[kind]
    text = "<|eos|> <|pad|></s><s><unk> x <0x0A>"
    ids = tokenizer.encode(text)
    assert not {tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id} & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*tokenizer.encode("ab"), tokenizer.eos_id]) == "ab"
    assert tokenizer.lead == []


def test_no_merge_joins_punctuation(trained: dict[str, TextTokenizer]) -> None:
    raw = trained["byte_bpe"].raw
    for piece in raw.get_vocab(with_added_tokens=False):
        if piece not in ("<|pad|>", "<|eos|>"):
            assert len(piece) == 1 or not re.search(r"[!-/:-@\[-`{-~0-9]", piece), piece
    pieces = trained["sentencepiece_bpe"].raw.get_vocab(with_added_tokens=False)
    for piece in pieces:
        if not re.fullmatch(r"<(unk|s|/s|0x[0-9A-F]{2})>", piece):
            mixed = re.search(r"[^\W\d_]", piece) and re.search(r"[!-/:-@\[-`{-~]", piece)
            assert not mixed, piece


def test_saved_without_isolated_marks_the_ids_are_the_same(
    trained: dict[str, TextTokenizer],
) -> None:
    saved = trained["byte_bpe"].raw
    training = Tokenizer.from_str(saved.to_str())
    marks = pre.Split(Regex(r"[!-/:-@\[-`{-~]"), "isolated")
    training.pre_tokenizer = pre.Sequence([
        pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False), marks,
    ])  # fmt: skip
    for text in (PROSE, "        # indented\n\t\t(a)  .\n    'x'   \"y\"\n\n   -1", "a  !b ...  ?"):
        assert training.encode(text).ids == saved.encode(text).ids
    assert len(saved.encode(PROSE).ids) < 0.7 * len(PROSE.encode())


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_same_ids(trained: dict[str, TextTokenizer], kind: str) -> None:
    tokenizer = trained[kind]
    theirs = AutoTokenizer.from_pretrained(tokenizer.folder)
    for text in (PROSE, " two  blanks ", "12345", "\n\n\tx", "你好 naïve", ""):
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    assert theirs.eos_token_id == tokenizer.eos_id


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", [300, 330, 400])
def test_the_vocabulary_is_at_most_as_large_as_asked(
    tmp_path: Path, kind: Any, vocab_size: int
) -> None:
    many = "".join(map(chr, range(0x4E00, 0x4F00))) * 3  # an alphabet larger than the room
    train_tokenizer([PROSE, many], tmp_path, kind=kind, vocab_size=vocab_size)
    tokenizer = open_tokenizer(tmp_path)
    assert tokenizer.size == vocab_size
    ids = sorted(tokenizer.raw.get_vocab(with_added_tokens=True).values())
    assert ids == list(range(vocab_size))
    assert tokenizer.decode(tokenizer.encode(many[:50])) == many[:50]
    train_tokenizer([PROSE, many], tmp_path / "again", kind=kind, vocab_size=vocab_size)
    assert open_tokenizer(tmp_path / "again").sha256 == tokenizer.sha256


def test_the_begin_token_leads_where_the_template_says_so(
    trained: dict[str, TextTokenizer], tmp_path: Path
) -> None:
    from tokenizers.processors import TemplateProcessing

    source = trained["sentencepiece_bpe"]
    raw = Tokenizer.from_file(str(source.folder / "tokenizer.json"))
    raw.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    raw.save(str(tmp_path / "tokenizer.json"))
    text = (source.folder / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(text)
    tokenizer = open_tokenizer(tmp_path)
    assert tokenizer.lead == [tokenizer.bos_id] == [1]
    assert tokenizer.encode("a b") == source.encode("a b")


def test_damaged_files_are_errors(trained: dict[str, TextTokenizer], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer.json in it"):
        open_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": 3}')
    with pytest.raises(UserError, match=r"tokenizer.json: not a tokenizer"):
        open_tokenizer(tmp_path)
    path.write_bytes((trained["byte_bpe"].folder / "tokenizer.json").read_bytes())
    with pytest.raises(UserError, match="no end-of-text token"):
        open_tokenizer(tmp_path)
    for bad in ({"eos_token_id": 99999}, {"eos_token_id": -1}, {"eos_token_id": "1"}):
        (tmp_path / "config.json").write_text(json.dumps(bad))
        with pytest.raises(UserError, match="no end-of-text token"):
            open_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))
    assert open_tokenizer(tmp_path).eos_id == open_tokenizer(tmp_path).pad_id == 1
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"a JSON list\. Expected a JSON object"):
        open_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"vocab_size: found 299. Expected at least 300"):
        train_tokenizer(["a"], tmp_path, kind="byte_bpe", vocab_size=299)
