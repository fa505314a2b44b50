"""Hostile and damaged checkpoint folders: the message names the file and the tensor."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from smelt.checkpoint.reader import INDEX, SINGLE, Checkpoint
from smelt.core.errors import UserError
from tests.weights import write_checkpoint

TENSORS = {
    "model.embed_tokens.weight": torch.arange(12, dtype=torch.bfloat16).reshape(3, 4),
    "model.layers.0.mlp.up_proj.weight": torch.linspace(-1, 1, 6).reshape(2, 3),
    "model.norm.weight": torch.ones(4, dtype=torch.float16),
    "steps": torch.tensor(7),
    "empty": torch.empty(0, 4),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    save_file(TENSORS, path / SINGLE, metadata={"format": "pt"})
    return path


def _header(entries: dict[str, Any], data: int = 8) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def test_reads_what_safetensors_wrote(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.names() == sorted(TENSORS)
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.files == [folder / SINGLE]
    for name, tensor in TENSORS.items():
        assert torch.equal(checkpoint.read(name), tensor)
        assert checkpoint.read(name).dtype == tensor.dtype
    spec = checkpoint.spec("model.embed_tokens.weight")
    assert (spec.shape, spec.dtype, spec.num_bytes) == ((3, 4), "BF16", 24)


def test_unknown_tensor(folder: Path) -> None:
    with pytest.raises(UserError, match="no tensor 'nope'"):
        Checkpoint.open(folder).read("nope")


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_truncated_file(folder: Path, size: int) -> None:
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[:size])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated"):
        Checkpoint.open(folder)


def test_truncation_names_the_tensor(folder: Path) -> None:
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"tensor 'model.norm.weight' ends at byte"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, "'x' has 8 bytes.*12 for"),
        ({"x": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}, "'x' has dtype 'F31'"),
        ({"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, r"'x' has shape \[-2\]"),
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, "'x' has offsets"),
        ({"x": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}, "'x' has shape"),
        ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "'x' follows a hole"),
        ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "4 bytes after the last"),
        ({"x": {"dtype": "F32", "shape": [2]}}, "'x' has a damaged entry"),
        ({"x": 3}, "'x' has a damaged entry"),
        (
            {"x": {"dtype": "U8", "shape": [0, 2**70], "data_offsets": [0, 0]}},
            "'x' has 2 dimensions, the largest 1180591620717411303.*at most 64",
        ),
        ({"x": {"dtype": "U8", "shape": [0, 10**400], "data_offsets": [0, 0]}}, "the largest 1000"),
        (
            {"x": {"dtype": "U8", "shape": [1] * 65, "data_offsets": [0, 1]}},
            "'x' has 65 dimensions",
        ),
        (
            {"x\ud800": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}},
            r"tensor name 'x\\ud800' is no text",
        ),
        (
            {"x": {"dtype": "\ud800", "shape": [8], "data_offsets": [0, 8]}},
            r"'x' has dtype '\\ud800'",
        ),
        (
            {
                "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "y": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
            },
            "'y' overlaps",
        ),
    ],
)
def test_damaged_headers(folder: Path, header: dict[str, Any], message: str) -> None:
    (folder / SINGLE).write_bytes(_header(header))
    with pytest.raises(UserError, match=message) as caught:
        Checkpoint.open(folder)
    assert str(caught.value).encode(), "it can be printed"


def test_a_tensor_of_many_dimensions_that_is_legal(folder: Path) -> None:
    entry = {"dtype": "U8", "shape": [1] * 63 + [8], "data_offsets": [0, 8]}
    (folder / SINGLE).write_bytes(_header({"x": entry}))
    assert Checkpoint.open(folder).array("x").shape == (*[1] * 63, 8)


def test_header_that_is_no_json(folder: Path) -> None:
    (folder / SINGLE).write_bytes(struct.pack("<Q", 4) + b"{{{{")
    with pytest.raises(UserError, match="header is not JSON"):
        Checkpoint.open(folder)
    twice = b'{"x": {}, "x": {}}'
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(twice)) + twice)
    with pytest.raises(UserError, match="a name stands twice"):
        Checkpoint.open(folder)


@pytest.fixture
def sharded(folder: Path) -> Path:
    (folder / SINGLE).unlink()
    write_checkpoint(folder, TENSORS, max_shard_bytes=30)
    assert (folder / INDEX).is_file()
    return folder


def _edit_index(folder: Path, edit: Callable[[dict[str, str]], None]) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_reads_shards(sharded: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    assert len(checkpoint.files) > 1
    assert all(torch.equal(checkpoint.read(name), TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a/b", "..", ""])
def test_index_that_leaves_its_folder(sharded: Path, name: str) -> None:
    _edit_index(sharded, lambda weights: weights.update({"steps": name}))
    with pytest.raises(UserError, match="leaves the folder"):
        Checkpoint.open(sharded)


def test_link_that_leaves_its_folder(sharded: Path, tmp_path: Path) -> None:
    shard = sorted(sharded.glob("model-*"))[0]
    shard.rename(tmp_path / "outside")
    shard.symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="a link that leaves the folder"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize(
    "name", ["config.json", SINGLE, "tokenizer.json", "tokenizer.model", "chat_template.jinja"]
)
def test_no_file_of_a_model_may_be_a_link_out_of_it(
    folder: Path, tmp_path: Path, name: str
) -> None:
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=f"{name}: a link that leaves the folder"):
        Checkpoint.open(folder)
    (tmp_path / "outside").rename(folder / "inside")
    (folder / name).unlink()
    (folder / name).symlink_to("inside")
    assert Checkpoint.open(folder).names() == sorted(TENSORS)


def test_hub_cache_links_are_allowed(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "models--org--model"
    snapshot = home / "snapshots" / "abc"
    (home / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for place, name in enumerate(("config.json", SINGLE)):
        (folder / name).rename(home / "blobs" / str(place))
        (snapshot / name).symlink_to(os.path.relpath(home / "blobs" / str(place), snapshot))
    assert Checkpoint.open(snapshot).names() == sorted(TENSORS)


def test_missing_shard(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*"))[0]
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name}: missing shard"):
        Checkpoint.open(sharded)


def test_tensor_that_is_not_in_its_shard(sharded: Path) -> None:
    files = sorted(path.name for path in sharded.glob("model-*"))
    _edit_index(sharded, lambda weights: weights.update({"\ud800": files[0]}))
    with pytest.raises(UserError, match="is no text"):
        Checkpoint.open(sharded)
    _edit_index(sharded, lambda weights: weights.__delitem__("\ud800"))
    _edit_index(sharded, lambda weights: weights.update({"ghost": files[0]}))
    with pytest.raises(UserError, match="tensor 'ghost' is not in model-00001"):
        Checkpoint.open(sharded)
    _edit_index(sharded, lambda weights: weights.__delitem__("ghost"))
    _edit_index(sharded, lambda weights: weights.__delitem__("steps"))
    with pytest.raises(UserError, match=r"tensor 'steps' is not in model.safetensors.index.json"):
        Checkpoint.open(sharded)


def test_pickles_are_refused(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pytorch_model.bin in it"):
        Checkpoint.open(folder)


def test_wrong_paths(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Checkpoint.open(tmp_path / "nope")
    with pytest.raises(UserError, match=r"a file. Expected a checkpoint folder"):
        Checkpoint.open(folder / "config.json")
    (folder / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"config\.json: a JSON list"):
        Checkpoint.open(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        Checkpoint.open(folder)


def test_unknown_hub_name_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="neither a folder nor reachable on the hub"):
        Checkpoint.open("org/no-such-model")
