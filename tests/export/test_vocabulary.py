"""The lists of a GGUF vocabulary: types, scores, control tokens, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from smelt.core.errors import UserError
from smelt.export.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, read_vocabulary


def edit(path: Path, change: Any) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.fixture
def copies(picos: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    return {kind: Path(shutil.copytree(folder, tmp_path / kind)) for kind, folder in picos.items()}


def rows_of(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def test_types_and_scores_of_sentencepiece(picos: dict[str, Path]) -> None:
    folder = picos["sentencepiece_bpe"]
    found = read_vocabulary(folder, rows_of(folder))
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    assert len(merges) > 10
    for rank, (left, right) in enumerate(merges):
        assert found.scores[found.tokens.index(left + right)] == -rank
    least = min(found.scores[found.tokens.index(left + right)] for left, right in merges)
    assert all(found.scores[found.tokens.index(f"<0x{b:02X}>")] < least for b in range(256))
    assert found.types[:4] == [UNKNOWN, CONTROL, CONTROL, BYTE]
    assert found.types.count(BYTE) == 256
    assert (found.bos_id, found.eos_id, found.unk_id, found.add_bos) == (1, 2, 0, False)


def test_byte_level(pico: Path) -> None:
    found = read_vocabulary(pico, rows_of(pico))
    raw = json.loads((pico / "tokenizer.json").read_text())["model"]
    assert {found.tokens[index]: index for index in raw["vocab"].values()} == raw["vocab"]
    assert found.merges == [" ".join(pair) for pair in raw["merges"]]
    assert (found.types[0], found.types[1], found.types[5]) == (CONTROL, CONTROL, NORMAL)
    assert (found.bos_id, found.eos_id, found.pad_id, found.unk_id) == (None, 1, 0, None)


def test_rows_beyond_the_tokenizer_are_unused(pico: Path) -> None:
    rows = rows_of(pico)
    found = read_vocabulary(pico, rows + 7)
    assert len(found.tokens) == len(set(found.tokens)) == rows + 7
    assert found.types[rows:] == [UNUSED] * 7


def test_more_ids_than_rows(pico: Path) -> None:
    with pytest.raises(UserError, match="embedding rows"):
        read_vocabulary(pico, rows_of(pico) - 1)


def test_no_end_token(copies: dict[str, Path]) -> None:
    folder = copies["byte_bpe"]
    edit(folder / "tokenizer_config.json", lambda data: data.pop("eos_token"))
    edit(folder / "config.json", lambda data: data.update(eos_token_id=None))
    with pytest.raises(UserError, match="no end-of-text token"):
        read_vocabulary(folder, rows_of(folder))


def test_missing_byte_token(copies: dict[str, Path]) -> None:
    folder = copies["sentencepiece_bpe"]

    def rename(data: Any) -> None:
        vocab = data["model"]["vocab"]
        vocab["other"] = vocab.pop("<0x41>")

    edit(folder / "tokenizer.json", rename)
    with pytest.raises(UserError, match="255 byte tokens"):
        read_vocabulary(folder, rows_of(folder))


def template(names: list[str], after: list[str]) -> dict[str, Any]:
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2}
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    end = [{"SpecialToken": {"id": name, "type_id": 0}} for name in after]
    return {
        "type": "TemplateProcessing",
        "single": [*special, {"Sequence": {"id": "A", "type_id": 0}}, *end],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in {*names, *after}
        },
    }


def test_template_decides_what_is_added(copies: dict[str, Path]) -> None:
    folder = copies["sentencepiece_bpe"]
    post = template(["<s>"], ["</s>"])
    edit(folder / "tokenizer.json", lambda data: data.update(post_processor=post))
    found = read_vocabulary(folder, rows_of(folder))
    assert (found.add_bos, found.add_eos, found.bos_id) == (True, True, 1)


@pytest.mark.parametrize(
    ("post", "told"),
    [
        (template(["<s>", "</s>"], []), "2 control tokens"),
        (template([], ["<s>"]), r"ends in ids \[1\]"),
        ({"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}, "BertProcessing"),
    ],
)
def test_templates_that_llama_cpp_has_not(
    copies: dict[str, Path], post: dict[str, Any], told: str
) -> None:
    folder = copies["sentencepiece_bpe"]
    edit(folder / "tokenizer.json", lambda data: data.update(post_processor=post))
    with pytest.raises(UserError, match=told):
        read_vocabulary(folder, rows_of(folder))


def test_chat_template_from_either_place(copies: dict[str, Path]) -> None:
    folder = copies["byte_bpe"]
    assert read_vocabulary(folder, rows_of(folder)).chat_template is None
    both = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    edit(folder / "tokenizer_config.json", lambda data: data.update(chat_template=both))
    assert read_vocabulary(folder, rows_of(folder)).chat_template == "D"
    (folder / "chat_template.jinja").write_text("J")
    assert read_vocabulary(folder, rows_of(folder)).chat_template == "J"


def test_damaged_json(copies: dict[str, Path]) -> None:
    folder = copies["byte_bpe"]
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_vocabulary(folder, rows_of(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        read_vocabulary(folder, rows_of(folder))
