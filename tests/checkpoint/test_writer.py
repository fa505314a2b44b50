"""The writer: readable by safetensors, the same bytes every time, safe to interrupt."""

import itertools
import json
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from smelt.checkpoint.reader import INDEX, SINGLE, Checkpoint
from smelt.checkpoint.writer import Entry, Writer
from smelt.core.errors import UserError
from tests.weights import to_numpy, write_checkpoint


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b": torch.randn(5, 3, generator=generator),
        "a": torch.randn(7, generator=generator).to(torch.bfloat16),
        "c": torch.tensor([True, False, True]),
        "d": torch.randn(4, 4, generator=generator).T,
        "scalar": torch.tensor(2.5),
    }


def _entries() -> list[Entry]:
    kinds = {torch.float32: "F32", torch.bfloat16: "BF16", torch.bool: "BOOL"}
    return [Entry(name, tuple(one.shape), kinds[one.dtype]) for name, one in _tensors().items()]


def _write(writer: Writer, shards: int) -> None:
    """Write the next so many shards, each one's tensors backwards and in two parts."""
    for shard in itertools.islice(writer.missing(), shards):
        for entry in reversed(shard):
            data = to_numpy(_tensors()[entry.name]).reshape(-1).view(np.uint8)
            half = len(data) // 2
            writer.place(entry.name, half, data[half:])
            writer.place(entry.name, 0, data[:half])
        writer.end()


def test_one_file_has_the_bytes_that_safetensors_writes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "ours", _tensors())
    contiguous = {name: one.contiguous() for name, one in _tensors().items()}
    save_file(contiguous, tmp_path / "theirs", metadata={"format": "pt"})
    ours = tmp_path / "ours" / SINGLE
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()
    assert stat.S_IMODE(ours.stat().st_mode) == 0o644


def test_shards_and_index(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, _tensors(), max_shard_bytes=80)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 60 + 14 + 3 + 64 + 4
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for name, tensor in _tensors().items():
        assert torch.equal(load_file(tmp_path / index["weight_map"][name])[name], tensor)
    with safe_open(tmp_path / files[0], "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_interrupted_writer_leaves_no_half_shard_and_continues(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write_checkpoint(whole, _tensors(), max_shard_bytes=80)
    writer = Writer(cut, _entries(), max_shard_bytes=80)
    _write(writer, 2)
    next(writer.missing())
    with pytest.raises(AssertionError, match="not written"):
        writer.__exit__(None, None, None)
    names = [path.name for path in sorted(cut.iterdir())]
    assert names == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors.unfinished",
    ]
    with Writer(cut, _entries(), max_shard_bytes=80, resume=True) as writer:
        _write(writer, 9)
    assert {p.name: p.read_bytes() for p in cut.iterdir()} == {
        p.name: p.read_bytes() for p in whole.iterdir()
    }


def test_folder_with_weights_is_refused_unless_resumed(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"stale")
    with pytest.raises(UserError, match="holds weights already"):
        write_checkpoint(tmp_path, _tensors())
    with Writer(tmp_path, _entries(), resume=True) as writer:
        _write(writer, 9)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]


def test_what_is_written_is_checked(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), Writer(tmp_path, _entries()) as writer:
        writer.write(next(writer.missing())[0], np.ones(9))
    with pytest.raises(AssertionError, match="not written"), Writer(tmp_path / "b", _entries()):
        pass


def test_round_trip_with_the_reader(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_checkpoint(tmp_path, _tensors(), max_shard_bytes=1)
    checkpoint = Checkpoint.open(tmp_path)
    assert all(torch.equal(checkpoint.read(name), one) for name, one in _tensors().items())
