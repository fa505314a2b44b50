"""Statistics folders as files: read back, shared arrays resolved, damage and strangers refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from smelt.checkpoint.reader import Checkpoint
from smelt.checkpoint.statistics import DESCRIPTION, Statistics, weights_sha256
from smelt.checkpoint.writer import write_tensors
from smelt.core.errors import UserError

GENERATOR = np.random.default_rng(0)
WEIGHTS = {
    "layers.0.k.weight": GENERATOR.normal(size=(2, 4)).astype(np.float32),
    "layers.0.q.weight": GENERATOR.normal(size=(6, 4)).astype(np.float32),
    "layers.0.norm.weight": np.ones(4, np.float32),
}
MATRIX = np.arange(16, dtype=np.float32).reshape(4, 4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file(WEIGHTS, folder / "model.safetensors")
    return folder


def described(model: Path, **changes: Any) -> dict[str, Any]:
    data = {
        "format": 1,
        "kind": "gram",
        "weights_sha256": weights_sha256(Checkpoint.open(model)),
        "data_sha256": "0" * 64,
        "rows": 3,
        "examples": 3,
        "tokens": 30,
        "options": {"seed": 0, "labels": None},
        "skipped": {},
        "tensors": {
            name: {
                "shape": list(WEIGHTS[name].shape),
                "stored_as": "layers.0.k.weight",
                "tokens": 30,
                "input_axis": 1,
            }
            for name in ("layers.0.k.weight", "layers.0.q.weight")
        },
        "left_out": {"layers.0.moe.weight": "its layer was never called"},
        "files": ["statistics.safetensors"],
    }
    return data | changes


def write(model: Path, arrays: dict[str, Any] | None = None, **changes: Any) -> Path:
    folder = model.parent / "statistics"
    folder.mkdir(exist_ok=True)
    save_file(arrays or {"layers.0.k.weight": MATRIX}, folder / "statistics.safetensors")
    (folder / DESCRIPTION).write_text(json.dumps(described(model, **changes)))
    return folder


def test_read_back(model: Path) -> None:
    found = Statistics.open(write(model))
    assert found.kind == "gram"
    assert found.names() == ["layers.0.k.weight", "layers.0.q.weight"]
    for name in found.names():  # q shares the input of k
        array = found.array(name)
        np.testing.assert_array_equal(array, MATRIX)
        array[0, 0] = 7  # a private copy
        assert found.measured(name).tokens == 30
        assert found.measured(name).input_axis == 1
    np.testing.assert_array_equal(found.array("layers.0.q.weight"), MATRIX)
    for name, why in (("layers.0.norm.weight", "no linear"), ("layers.0.moe.weight", "its layer")):
        with pytest.raises(UserError, match=f"no gram of '{name}' \\({why}"):
            found.array(name)


def test_fisher_has_the_shape_of_the_tensor(model: Path) -> None:
    norm = {"shape": [4], "stored_as": "n", "tokens": 5}
    arrays = {"n": np.arange(4, dtype=np.float32)}
    folder = write(model, arrays, kind="fisher", tensors={"layers.0.norm.weight": norm})
    found = Statistics.open(folder)
    np.testing.assert_array_equal(found.array("layers.0.norm.weight"), [0, 1, 2, 3])
    assert found.measured("layers.0.norm.weight").input_axis is None
    found.check_belongs(Checkpoint.open(model))


def test_a_gram_of_the_other_axis(model: Path) -> None:
    """Conv1D of GPT-2: the input meets the first axis."""
    entry = {"shape": [6, 4], "stored_as": "g", "tokens": 5, "input_axis": 0}
    folder = write(model, {"g": np.eye(6, dtype=np.float32)}, tensors={"layers.0.q.weight": entry})
    assert Statistics.open(folder).array("layers.0.q.weight").shape == (6, 6)


def test_only_the_same_model_is_served(model: Path, tmp_path: Path) -> None:
    found = Statistics.open(write(model))
    found.check_belongs(Checkpoint.open(model))
    (model / "tokenizer.json").write_text("{}")  # not weights
    found.check_belongs(Checkpoint.open(model))
    cut = tmp_path / "cut"  # the same tensors in other files
    shutil.copytree(model, cut)
    (cut / "model.safetensors").unlink()
    write_tensors(cut, WEIGHTS, max_shard_bytes=50)
    found.check_belongs(Checkpoint.open(cut))
    other = tmp_path / "other"
    shutil.copytree(model, other)
    changed = {name: tensor.copy() for name, tensor in WEIGHTS.items()}
    changed["layers.0.norm.weight"][0] += 1
    save_file(changed, other / "model.safetensors")
    message = rf"weight files differ.*smelt statistics {other} OUT --data ROWS --kind gram"
    with pytest.raises(UserError, match=message):
        found.check_belongs(Checkpoint.open(other))
    found.check_belongs(Checkpoint.open(other), contents=False)
    save_file(
        {**WEIGHTS, "layers.0.q.weight": WEIGHTS["layers.0.k.weight"]}, other / "model.safetensors"
    )
    with pytest.raises(UserError, match=r"is \[6, 4\] here and \[2, 4\] in the model"):
        found.check_belongs(Checkpoint.open(other), contents=False)
    save_file({"layers.0.k.weight": WEIGHTS["layers.0.k.weight"]}, other / "model.safetensors")
    with pytest.raises(UserError, match="and nowhere in the model"):
        found.check_belongs(Checkpoint.open(other))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"kind": "hessian"}, "'hessian'"),
        ({"format": 2}, "format"),
        ({"surprise": 1}, "unknown key"),
        ({"files": []}, "files"),
        ({"files": ["../model/model.safetensors"]}, "no file"),
        ({"files": ["gone.safetensors"]}, "no file 'gone"),
        ({"tensors": {"a": {"shape": [2, 4], "stored_as": "b", "tokens": 1}}}, "nothing under 'b'"),
        (
            {"tensors": {"a": {"shape": [2, 4], "stored_as": "layers.0.k.weight", "tokens": 1}}},
            r"F32 \[4, 4\] under",
        ),
        (
            {
                "tensors": {
                    "a": {
                        "shape": [2, 5],
                        "stored_as": "layers.0.k.weight",
                        "tokens": 1,
                        "input_axis": 1,
                    }
                }
            },
            r"Expected F32 \[5, 5\]",
        ),
    ],
)
def test_damage_is_named(model: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        Statistics.open(write(model, **changes))


def test_what_is_no_statistics_folder(model: Path) -> None:
    with pytest.raises(UserError, match=r"no statistics\.json.*Next: smelt statistics"):
        Statistics.open(model)
    folder = write(model)
    (folder / DESCRIPTION).write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        Statistics.open(folder)
    folder = write(model, {"layers.0.k.weight": MATRIX.astype(np.float64)})
    with pytest.raises(UserError, match="F64"):
        Statistics.open(folder)
    folder = write(model)
    with (folder / "statistics.safetensors").open("rb+") as stream:
        stream.truncate(100)
    with pytest.raises(UserError, match="truncated"):
        Statistics.open(folder)


def test_a_file_cut_while_it_is_open(model: Path) -> None:
    found = Statistics.open(write(model))
    with (found.folder / "statistics.safetensors").open("rb+") as stream:
        stream.truncate(found.stored["layers.0.k.weight"].start + 60)
    with pytest.raises(UserError, match="ends inside tensor"):
        found.array("layers.0.q.weight")


def test_the_reader_needs_no_torch() -> None:
    code = "import sys, smelt.checkpoint.statistics; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
