"""Pipelines of tiny verbs: every seed, skipped when done, rerun when an input changes."""

import json
from pathlib import Path
from typing import Any

import pytest

from smelt.core import progress
from smelt.core.errors import UserError
from smelt.pipeline import execute as module
from smelt.pipeline.execute import execute_run
from smelt.pipeline.recipe import read
from tests.pipeline import fakes


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run here, one after the other: workers have tests of their own."""

    def run_jobs(function: Any, jobs: list[Any], *, workers: int, threads: int) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        for job in jobs:
            function(*job)

    monkeypatch.setattr(module, "run_jobs", run_jobs)


def recipe(**values: Any) -> dict[str, Any]:
    """a and b are roots; c = a + b; d = b."""
    stages = [
        {"name": "a", "verb": "add", "recipe": {"number": "$a"}},
        {"name": "b", "verb": "add", "recipe": {"number": "$b"}},
        {"name": "c", "verb": "add", "recipe": {"number": 0, "from1": "@a", "from2": "@b"}},
        {"name": "d", "verb": "add", "recipe": {"number": 0, "from": "@b"}},
    ]
    if "fail" in values:
        stages[2]["recipe"]["fail"] = values.pop("fail")  # type: ignore[index]
    return {"stages": stages, "values": {"a": 1, "b": 10, **values}, "seeds": [0, 100]}


def start(out: Path, data: dict[str, Any]) -> dict[str, Any]:
    return execute_run(read(data, "r"), out, device="cpu", verb_of=fakes.verb_of)


def sums(out: Path) -> dict[str, int]:
    return {
        f"{folder.parent.name}/{folder.name}": int((folder / "sum").read_text())
        for folder in sorted(out.glob("seed-*/*"))
    }


def costs(out: Path) -> dict[str, int]:
    return {
        f"{path.parent.parent.name}/{path.parent.name}": path.stat().st_mtime_ns
        for path in out.glob("seed-*/*/cost.json")
    }


@pytest.mark.usefixtures("in_process")
def test_every_seed_then_nothing_then_only_what_depends(tmp_path: Path) -> None:
    out = tmp_path / "out"
    start(out, recipe())
    assert sums(out) == {
        "seed-0/a": 1, "seed-0/b": 10, "seed-0/c": 11, "seed-0/d": 10,
        "seed-100/a": 101, "seed-100/b": 110, "seed-100/c": 311, "seed-100/d": 210,
    }  # fmt: skip
    record = json.loads((out / "run.json").read_text())
    assert record["stages"][5] == {
        "name": "b", "verb": "add", "seed": 100, "path": "seed-100/b",
    }  # fmt: skip
    assert str(tmp_path) not in (out / "run.json").read_text()

    first, text = costs(out), (out / "run.json").read_bytes()
    start(out, recipe())
    assert costs(out) == first
    assert (out / "run.json").read_bytes() == text

    start(out, recipe(a=2))
    again = {name for name, time in costs(out).items() if time != first[name]}
    assert again == {f"seed-{seed}/{stage}" for seed in (0, 100) for stage in "ac"}
    assert sums(out)["seed-0/c"] == 12
    assert not list(out.rglob("*.old"))


@pytest.mark.usefixtures("in_process")
def test_a_failure_leaves_what_is_done_and_no_record(tmp_path: Path) -> None:
    out = tmp_path / "out"
    start(out, recipe())
    with pytest.raises(UserError, match="seed 100, stage c: asked to fail"):
        start(out, recipe(fail=100))
    assert not (out / "run.json").exists()
    before = costs(out)
    start(out, recipe())
    # seed 0's stage c had another recipe for a while.
    assert {name for name, time in costs(out).items() if time != before[name]} == {"seed-0/c"}


def test_two_seeds_in_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    monkeypatch.setattr(progress, "_sink", said.append)
    start(tmp_path / "out", {**recipe(), "workers": 2, "threads": 1})
    assert sums(tmp_path / "out")["seed-100/c"] == 311
    record = json.loads((tmp_path / "out/seed-100/c/run.json").read_text())
    assert (record["threads"], record["device"], record["seed"]) == ("1", "cpu", 100)
    labels = sorted(event[2] for event in said if event[0] == "start")
    assert labels == ["seed 0: stages", "seed 100: stages"]


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/a.txt").write_text("x")
    with pytest.raises(UserError, match="a folder that is not ours"):
        start(tmp_path / "thesis", recipe())
    with pytest.raises(UserError, match="not a folder"):
        start(tmp_path / "thesis/a.txt", recipe())
    with pytest.raises(UserError, match="cannot write"):
        start(tmp_path / "thesis/a.txt/b", recipe())


@pytest.mark.usefixtures("in_process")
def test_a_start_that_was_killed_at_once_is_ours(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "recipe.json.partial").write_text("{")
    start(out, recipe())
    assert sorted(path.name for path in out.iterdir()) == [
        "recipe.json", "run.json", "seed-0", "seed-100",
    ]  # fmt: skip
