"""Side files: portable between transformers 4 and 5, readable by other users."""

import json
import stat
from pathlib import Path

import pytest

from smelt.checkpoint import folder
from smelt.core.errors import UserError
from smelt.export.vocabulary import read_vocabulary


def test_config_has_rope_theta_at_both_places(tmp_path: Path) -> None:
    new = folder.portable_config({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})
    assert new["rope_theta"] == 5e5
    old = folder.portable_config({"rope_theta": 5e5})
    assert old["rope_parameters"] == {"rope_type": "default", "rope_theta": 5e5}
    scaled = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert folder.portable_config(scaled) == scaled
    assert folder.portable_config({}, "bfloat16") == {
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }
    folder.write_config(tmp_path, {"b": 1, "a": 2})
    assert (tmp_path / "config.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'


def test_tokenizer_is_made_portable_and_template_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    config = {"tokenizer_class": "TokenizersBackend", "chat_template": "old"}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "tokenizer.json").write_text("{}")
    (source / "tokenizer.json").chmod(0o600)
    (source / "secret.txt").write_text("not a side file")
    (source / "generation_config.json").write_text('{"eos_token_id": 1}')
    folder.copy_side_files(source, target, chat_template="{{ new }}")
    assert sorted(path.name for path in target.iterdir()) == [
        "chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    written = json.loads((target / "tokenizer_config.json").read_text())
    assert written == {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ new }}"}
    assert stat.S_IMODE((target / "tokenizer.json").stat().st_mode) == 0o644


def test_template_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer_config\.json"):
        folder.copy_tokenizer(tmp_path, tmp_path, "{{ x }}")


def test_vocabulary_of_both_kinds(tmp_path: Path) -> None:
    assert folder.vocabulary(tmp_path) is None
    path = tmp_path / "tokenizer.json"
    added = [{"content": "<s>", "id": 2}]
    path.write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": added}))
    assert folder.vocabulary(tmp_path) == {"a": 0, "b": 1, "<s>": 2}
    path.write_text(json.dumps({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}))
    assert folder.vocabulary(tmp_path) == {"a": 0, "b": 1}
    path.write_text("{}")
    with pytest.raises(UserError, match="no vocabulary in it"):
        folder.vocabulary(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        {"model": 3},
        {"model": {"vocab": [1, 2]}},
        {"model": {"vocab": ["ab", []]}},
        {"model": {"vocab": {"a": "b"}}},
        {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]},
        {"model": {"vocab": {"a": 0}}, "added_tokens": 3},
    ],
)
def test_a_damaged_vocabulary_is_an_error_for_merge_and_export(
    tmp_path: Path, data: dict[str, object]
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"tokenizer.json: no vocabulary"):
        folder.vocabulary(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer.json"):
        read_vocabulary(tmp_path, 10)


def test_the_type_of_the_parts_of_a_config_is_that_of_the_weights() -> None:
    config = {
        "dtype": "float32",
        "text_config": {"torch_dtype": "float32", "rope_config": {"dtype": "float32", "x": 1}},
        "vision_config": {"dtype": "float32"},
        "audio_config": {"layers": 3},
        "quantity": {"dtype": "float32"},
    }
    before = json.dumps(config)
    kind = {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
    assert folder.portable_config(config, "bfloat16") == {
        **kind,
        "text_config": {**kind, "rope_config": {**kind, "x": 1}},
        "vision_config": kind,
        "audio_config": {"layers": 3},
        "quantity": {"dtype": "float32"},
    }
    assert folder.portable_config(config) == config
    assert json.dumps(config) == before


@pytest.mark.parametrize("name", ["tokenizer.json", "video_preprocessor_config.json"])
def test_no_link_that_leaves_the_folder_is_copied(tmp_path: Path, name: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (tmp_path / "secret").write_text("{}")
    (source / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=f"{name}: a link that leaves the folder"):
        folder.copy_side_files(source, target)
    assert not list(target.iterdir())
    (source / name).unlink()
    (source / name).write_text("{}")
    folder.copy_side_files(source, target)
    assert [path.name for path in target.iterdir()] == [name]
