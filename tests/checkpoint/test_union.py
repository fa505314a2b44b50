"""Tokenizers put together: the base's texts stay as they were, and other tools read the files."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, trainers
from tokenizers import pre_tokenizers as pre
from transformers import AutoTokenizer

from smelt.checkpoint import union
from smelt.checkpoint.tokenizer import train_tokenizer
from smelt.core.errors import UserError
from tests.pico import TEXTS

OTHER = ["zebra quilts vex a lazy fox", "the zebra, the quilt, the fox 12[3]=\n"] * 20
READ = ["the lazy fox jumps over 12*3", "def max(a, b):\n  return T&F!", "zebra quilts"]
REAL = Path("/work/shared/tokenizers")


def trained(folder: Path, texts: list[str], kind: str, added: tuple[str, ...] = ()) -> Path:
    """A tokenizer folder of a kind; unigram and wordpiece too."""
    if kind in ("byte_bpe", "sentencepiece_bpe"):
        train_tokenizer(texts, folder, kind=kind, vocab_size=400)  # type: ignore[arg-type]
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        folder.mkdir()
        if kind == "unigram":
            tokenizer = Tokenizer(models.Unigram())
            trainer: trainers.Trainer = trainers.UnigramTrainer(
                vocab_size=70, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
            )
            tokenizer.pre_tokenizer = pre.Metaspace()
        else:
            tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
            trainer = trainers.WordPieceTrainer(
                vocab_size=80, special_tokens=["<unk>"], show_progress=False
            )
            tokenizer.pre_tokenizer = pre.BertPreTokenizer()
        tokenizer.train_from_iterator(texts, trainer)
        named = {"unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(named))
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in added])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def opened(folder: Path) -> union.TokenizerFile:
    result = union.read_tokenizer(folder)
    assert result is not None
    return result


def encoded(folder: Path, text: str) -> list[int]:
    return list(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids)


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece_bpe", "unigram"])
def test_a_union_reads_text_as_the_base_does(tmp_path: Path, kind: str) -> None:
    base = trained(tmp_path / "base", [*TEXTS, "zq"], kind, ("<|end|>",))
    other = trained(tmp_path / "other", OTHER, kind, ("<|tool|>",))
    united, warnings = union.unite(opened(base), {"other": opened(other)})
    plain = set(opened(other).vocabulary) - set(opened(base).vocabulary) - {"<|tool|>"}
    assert len(plain) > 3
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{len(plain)} plain tokens of other get rows")
    union.write_tokenizer(united, tmp_path / "out", None)
    for text in READ:
        assert encoded(tmp_path / "out", text) == encoded(base, text) != encoded(other, text)
    marked = encoded(tmp_path / "out", "the fox<|tool|><|end|>")
    assert marked[-2:] == [united.vocabulary["<|tool|>"], opened(base).vocabulary["<|end|>"]]
    assert marked[:-2] == encoded(base, "the fox")
    raw = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert raw.get_vocab(with_added_tokens=True) == united.vocabulary
    assert sorted(united.vocabulary.values()) == list(range(united.size))
    assert united.vocabulary["<|tool|>"] == united.size - 1
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.get_vocab() == united.vocabulary
    assert loaded("the fox<|tool|>").input_ids == marked[:-1]


def test_added_tokens_join_a_wordpiece_base_and_words_do_not(tmp_path: Path) -> None:
    base = trained(tmp_path / "base", TEXTS, "wordpiece")
    same, other = tmp_path / "same", trained(tmp_path / "other", OTHER, "wordpiece")
    shutil.copytree(base, same)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|tool|>", special=True)])
    tokenizer.save(str(same / "tokenizer.json"))
    united, warnings = union.unite(opened(base), {"same": opened(same)})
    assert warnings == []
    assert united.vocabulary == opened(same).vocabulary
    with pytest.raises(UserError, match=r"WordPiece base lacks.*tokenizer_source: other"):
        union.unite(opened(base), {"other": opened(other)})


def test_an_added_token_that_is_plain_in_the_base_keeps_its_id(tmp_path: Path) -> None:
    base = trained(tmp_path / "base", TEXTS, "byte_bpe")
    other = trained(tmp_path / "other", TEXTS, "byte_bpe", ("max", "<|tool|>"))
    united, _ = union.unite(opened(base), {"other": opened(other)})
    own = opened(base).vocabulary
    assert "max" in own
    assert united.vocabulary == {**own, "<|tool|>": len(own)}
    union.write_tokenizer(united, tmp_path / "out", None)
    assert encoded(tmp_path / "out", "xmax") == [own["x"], own["max"]]


def test_the_first_models_settings_of_a_token_stay(tmp_path: Path) -> None:
    base = trained(tmp_path / "base", TEXTS, "byte_bpe", ("<|tool|>",))
    other = trained(tmp_path / "other", TEXTS, "byte_bpe", ("<|tool|>",))
    data = json.loads((other / "tokenizer.json").read_text())
    data["added_tokens"][-1]["lstrip"] = True
    (other / "tokenizer.json").write_text(json.dumps(data))
    united, warnings = union.unite(opened(base), {"other": opened(other)})
    assert united.added["<|tool|>"]["lstrip"] is False
    assert len(warnings) == 1
    assert "1 added tokens of other have other settings" in warnings[0]


def test_what_does_not_change_is_copied_byte_for_byte(tmp_path: Path) -> None:
    base = trained(tmp_path / "base", TEXTS, "byte_bpe")
    (base / "merges.txt").write_text("#version: 0.2\n")
    united, _ = union.unite(opened(base), {"twin": opened(base)})
    union.write_tokenizer(united, tmp_path / "out", None)
    for name in ("tokenizer.json", "merges.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()


def test_what_changes_is_written_the_same_every_time_and_nothing_stale_stays(
    tmp_path: Path,
) -> None:
    base = trained(tmp_path / "base", TEXTS, "byte_bpe", ("<|tool|>",))
    (base / "merges.txt").write_text("#version: 0.2\n")
    named = json.loads((base / "tokenizer_config.json").read_text())
    named |= {"added_tokens_decoder": {}, "additional_special_tokens": ["<|tool|>", "<|lost|>"]}
    (base / "tokenizer_config.json").write_text(json.dumps(named))
    other = trained(tmp_path / "other", OTHER, "byte_bpe")
    for out in ("one", "two"):
        united, _ = union.unite(opened(base), {"other": opened(other)})
        union.write_tokenizer(united, tmp_path / out, "{{ messages }}")
    written = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert set(written) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    new = json.loads(written["tokenizer_config.json"])
    assert new["additional_special_tokens"] == ["<|tool|>"]
    assert new["chat_template"] == "{{ messages }}"
    assert {
        int(place): entry["content"] for place, entry in new["added_tokens_decoder"].items()
    } == {united.vocabulary[text]: text for text in united.added}


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece_bpe", "unigram", "wordpiece"])
def test_a_cut_tokenizer_has_no_id_beyond_the_rows(tmp_path: Path, kind: str) -> None:
    folder = trained(tmp_path / "base", TEXTS, kind, ("<|tool|>",))
    full = opened(folder)
    rows = full.size - 4  # the added token and three plain ones go
    union.write_tokenizer(union.cut(full, rows), tmp_path / "out", None)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    kept = {token: place for token, place in full.vocabulary.items() if place < rows}
    assert loaded.get_vocab() == kept
    for text in READ:
        assert max(encoded(tmp_path / "out", text)) < rows
    assert union.cut(full, full.size) is full


def test_a_cut_through_the_template_or_the_unknown_token_is_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "base", TEXTS, "byte_bpe", ("<|tool|>",))
    data = json.loads((folder / "tokenizer.json").read_text())
    place = opened(folder).vocabulary["<|tool|>"]
    token = {"SpecialToken": {"id": "<|tool|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    data["post_processor"] = {
        "type": "TemplateProcessing", "single": [token, text], "pair": [text, text],
        "special_tokens": {"<|tool|>": {"id": "<|tool|>", "ids": [place], "tokens": ["<|tool|>"]}},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="template names a token without an embedding row"):
        union.cut(opened(folder), place)
    data["model"]["unk_token"] = "<|tool|>"
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="unknown token lies beyond"):
        union.cut(opened(folder), place)


def test_tokenizers_of_other_formats(tmp_path: Path) -> None:
    assert union.read_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(UserError, match=r"tokenizer\.model but no tokenizer\.json"):
        union.read_tokenizer(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real tokenizers beside the checkout")
@pytest.mark.parametrize(
    ("first", "second", "marker"),
    [("mistral-7b-v0.1", "phi-3-mini", "<|user|>"), ("gpt2", "gpt-neox-20b", "<|padding|>")],
)
def test_real_tokenizers_unite(tmp_path: Path, first: str, second: str, marker: str) -> None:
    base = opened(REAL / first)
    united, _ = union.unite(base, {second: opened(REAL / second)})
    assert set(united.vocabulary) == set(base.vocabulary) | set(opened(REAL / second).vocabulary)
    union.write_tokenizer(united, tmp_path / "out", None)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.get_vocab() == united.vocabulary
    text = "The brown fox jumps 1234 times;\n\tfür émoi. unbelievable antidisestablishment"
    assert encoded(tmp_path / "out", text) == encoded(REAL / first, text)
    assert encoded(tmp_path / "out", f"a{marker}")[-1] == united.vocabulary[marker]
