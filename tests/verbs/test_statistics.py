"""`smelt statistics`: a folder that repeats byte by byte and knows its model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from smelt import cli
from smelt.checkpoint.reader import Checkpoint
from smelt.checkpoint.statistics import Statistics
from smelt.core import digest
from smelt.core.errors import UserError
from smelt.core.run import read_record
from smelt.data.document import write_jsonl
from smelt.verbs.statistics import check, execute, shape, statistics
from tests.pico import pico_llama
from tests.train.rows import pair


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("statistics")
    pico_llama(home / "a")
    pico_llama(home / "b", seed=1)
    write_jsonl(home / "rows.jsonl", [pair(f"{n}+1=", f"{n + 1}.", "math") for n in range(8)])
    return home


def recipe(**changes: Any) -> dict[str, Any]:
    return {"model": "a", "data": "rows.jsonl", "kind": "gram", **changes}


@pytest.mark.parametrize("kind", ["gram", "fisher"])
def test_result_folder(home: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(recipe(kind=kind), home / "one", where="test")
    execute(recipe(kind=kind), home / "two", where="test")
    assert digest.files(home / "one") == digest.files(home / "two")
    names = {path.name for path in (home / "one").iterdir()}
    assert names == {"statistics.safetensors", "statistics.json", "run.json", "cost.json"}
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (home / "one").iterdir())
    record = read_record(home / "one")
    assert record["inputs"]["model"]["path"] == "a"
    assert (record["kind"], record["rows"], record["skipped"]) == (kind, 8, {})
    found = Statistics.open(home / "one")
    assert record["tensors"] == len(found.names())
    assert record["tokens"] == found.description.tokens
    assert found.description.data_sha256 == digest.file(home / "rows.jsonl")
    text = (home / "one" / "statistics.json").read_text() + json.dumps(record)
    assert str(home) not in text
    found.check_belongs(Checkpoint.open("a"))
    with pytest.raises(UserError, match=f"weight files differ.*smelt statistics b .*{kind}"):
        found.check_belongs(Checkpoint.open("b"))
    monkeypatch.setattr("smelt.models.statistics.measure", None)  # would be called by any work
    execute(recipe(kind=kind), home / "one", where="test")


def test_the_seed_draws_rows_and_labels(home: Path) -> None:
    folders = {}
    for seed in (0, 1):
        folders[seed] = home / f"seed{seed}"
        execute(recipe(kind="fisher"), folders[seed], where="test", seed=seed)
    one, two = (Statistics.open(folder) for folder in folders.values())
    name = "model.layers.0.mlp.up_proj.weight"
    assert not np.array_equal(one.array(name), two.array(name))  # same rows, other labels
    execute(recipe(kind="fisher", labels="data"), home / "data", where="test", seed=0)
    execute(recipe(kind="fisher", labels="data"), home / "again", where="test", seed=1)
    np.testing.assert_array_equal(
        Statistics.open(home / "data").array(name), Statistics.open(home / "again").array(name)
    )


def test_command_line(home: Path) -> None:
    words = ["statistics", "a", "out", "--data", "rows.jsonl", "--kind", "gram", "--limit", "3"]
    words += ["--set", "memory_gb=0.00003"]
    done = CliRunner().invoke(cli.app_for(words), words)
    assert done.exit_code == 0, done.output
    found = Statistics.open(home / "out")
    assert found.description.rows == 3
    assert len(found.description.files) > 1
    assert read_record(home / "out")["recipe"]["limit"] == 3


def test_an_interrupted_run_starts_over_to_the_same_bytes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = recipe(memory_gb=0.00003)
    execute(data, home / "whole", where="test")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("smelt.models.statistics.write_atomic", stop)
        with pytest.raises(KeyboardInterrupt):
            execute(data, home / "cut", where="test")
    assert not (home / "cut").exists()
    assert len(list((home / "cut.partial").glob("statistics-*.safetensors"))) > 1
    (home / "cut.partial" / "unfinished").mkdir()
    (home / "cut.partial" / "unfinished" / ".tmp123").write_bytes(b"half")
    execute(data, home / "cut", where="test")
    assert digest.files(home / "cut") == digest.files(home / "whole")


def test_check_says_what_would_be_done(home: Path) -> None:
    lines = check(recipe(limit=5), where="r.yaml")
    assert lines[0].startswith("5 rows, 5 examples, ")
    assert "4 GB in a pass" in lines[-1]
    shape(recipe(), where="r.yaml")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"kind": "grma"}, "'gram' or 'fisher'"),
        ({"limit": 0}, "limit"),
        ({"limt": 3}, "limit"),
        ({"labels": "data"}, "a gram matrix has none"),
        ({"draws": 2}, "a gram matrix has none"),
        ({"kind": "fisher", "labels": "data", "draws": 2}, "not drawn"),
        ({"data": "none.jsonl"}, "no such file"),
        ({"model": "none"}, "no such folder"),
        ({"max_tokens": 1}, "exceeds max_tokens"),
        ({"memory_gb": float("inf")}, "memory_gb"),
    ],
)
def test_bad_recipes_are_refused_before_any_work(
    home: Path, changes: dict[str, Any], match: str
) -> None:
    for part in (
        lambda data: check(data, where="r.yaml"),
        lambda data: execute(data, home / "out", where="r.yaml"),
    ):
        with pytest.raises(UserError, match=match):
            part(recipe(**changes))
    assert not (home / "out").exists()
    assert not (home / "out.partial").exists()


def test_no_result_folder_and_no_device(home: Path) -> None:
    with pytest.raises(UserError, match="no result folder"):
        statistics("a", data="rows.jsonl", kind="gram")
    with pytest.raises(UserError, match="cannot be used"):
        statistics("a", home / "out", data="rows.jsonl", kind="gram", device="tpu9")
