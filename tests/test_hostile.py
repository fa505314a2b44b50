"""Kill -9 and Ctrl-C in every stage of a real pipeline: nothing half-finished, same bytes after."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smelt.core import digest

RECIPE = """\
verb: run
title: "hostile"
threads: 1
report: null
stages:
  - name: data
    verb: data
    recipe:
      sources:
        - {name: composed, tasks: [basic, math, logic], count: 150, operators: [1, 2]}
      splits: {fitness: 0.1, test: 0.1}
      tokenizers:
        pivot: {kind: byte_bpe, vocab_size: 300}
        source: {kind: sentencepiece_bpe, vocab_size: 320}
  - name: base
    verb: train
    recipe: &base
      stage: pretrain
      tokenizer: "@data/tokenizers/pivot"
      architecture:
        model_type: llama
        hidden_size: 16
        intermediate_size: 32
        num_hidden_layers: 2
        num_attention_heads: 2
        max_position_embeddings: 128
        tie_word_embeddings: true
      batch_rows: 4
      context: 64
      log_every: 2
      checkpoint_seconds: 0
      phases:
        - {steps: 30, mixture: [{path: "@data/train.jsonl", where: {domain: basic}}]}
        - {name: anneal, steps: 10, schedule: linear, mixture: [{path: "@data/train.jsonl"}]}
  - name: math
    verb: train
    recipe: &expert
      model: "@base"
      batch_rows: 4
      context: 64
      phases: [{steps: 10, mixture: [{path: "@data/train.jsonl", where: {domain: math}}]}]
  - name: logic
    verb: train
    recipe:
      <<: *expert
      phases: [{steps: 10, mixture: [{path: "@data/train.jsonl", where: {domain: logic}}]}]
  - name: source
    verb: train
    recipe:
      <<: *base
      tokenizer: "@data/tokenizers/source"
      phases: [{steps: 10, mixture: [{path: "@data/train.jsonl"}]}]
  - name: merged
    verb: merge
    recipe:
      merge_method: ties
      base_model: "@base"
      models: [{model: "@math"}, {model: "@logic"}]
      parameters: {density: 0.5}
  - name: searched
    verb: search
    recipe:
      merge_method: task_arithmetic
      base_model: "@base"
      models: [{model: "@math"}, {model: "@logic"}]
      parameters: {weight: search}
      search:
        fitness: {data: "@data/fitness.jsonl", domains: {math: 1.0, logic: 1.0}, limit: 8,
                  measure: likelihood}
        evaluations: 5
        algorithm: random_search
        options: {population: 2}
  - name: fused
    verb: fuse
    recipe:
      pivot: "@merged"
      sources: {source: "@source"}
      batch_rows: 4
      context: 64
      log_every: 2
      checkpoint_seconds: 0
      phases: [{steps: 12, mixture: [{path: "@data/train.jsonl", where: {domain: math}}]}]
  - name: eval
    verb: eval
    recipe:
      models: {base: "@base", merged: "@merged", fused: "@fused"}
      benchmarks: [{name: chains, data: "@data/test.jsonl", limit: 8}]
  - name: export
    verb: export
    recipe:
      model: "@fused"
      targets: [{name: gguf, quantize: f16}]
"""
COMMAND = [sys.executable, "-c", "from smelt.cli import main; main()", "run"]
Seen = Callable[[Path], bool]


def start(home: Path) -> "subprocess.Popen[str]":
    """`smelt run r.yaml out` in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [*COMMAND, "r.yaml", "out"],
        cwd=home,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def members(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


def content(home: Path) -> dict[str, str]:
    """All bytes of a result tree but its costs."""
    return digest.files(home / "out")


def lines_of(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


def partial(stage: str) -> Seen:
    return lambda seed: (seed / f"{stage}.partial").is_dir()


def resumable(stage: str) -> Seen:
    """A whole training state is there (and may be on its way out)."""
    return lambda seed: bool(list((seed / f"{stage}.partial").glob("resume-*[0-9]")))


def journalled(seed: Path) -> bool:
    return lines_of(seed / "searched.partial/journal.jsonl") >= 2


def captured(seed: Path) -> bool:
    return (seed / "fused.partial/stores").is_dir()


def answered(seed: Path) -> bool:
    return bool(list((seed / "eval.partial").glob("samples/*/*")))


def strike(home: Path, seen: Seen, number: int) -> "subprocess.Popen[str]":
    """Start, wait for a moment by looking at files, signal the whole group."""
    process = start(home)
    end = time.monotonic() + 60
    while not seen(home / "out/seed-0"):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.002)
    os.killpg(process.pid, number)
    process.wait(20)
    return process


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("unbroken")
    (home / "r.yaml").write_text(RECIPE)
    process = start(home)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len(list((home / "out/seed-0").iterdir())) == 10
    return home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "r.yaml").write_text(RECIPE)
    yield tmp_path


def finish(home: Path, unbroken: Path) -> None:
    process = start(home)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert content(home) == content(unbroken)
    assert not [p for p in home.rglob("*") if p.name.endswith((".partial", ".old", ".lock"))]


def test_kill_nine_then_the_same_command_ends_with_the_same_bytes(
    home: Path, unbroken: Path
) -> None:
    for seen in (resumable("base"), journalled, resumable("fused")):
        process = strike(home, seen, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (home / "out/run.json").exists()
        assert all((p / "run.json").is_file() for p in home.glob("out/seed-0/*[!l]"))
    finish(home, unbroken)


INTERRUPTS: dict[str, Seen] = {
    "data": partial("data"),
    "base": resumable("base"),
    "merged": partial("merged"),
    "searched": journalled,
    "fused": captured,
    "eval": answered,
    "export": partial("export"),
}


def test_ctrl_c_in_every_stage(home: Path, unbroken: Path) -> None:
    for stage, seen in INTERRUPTS.items():
        process = strike(home, seen, signal.SIGINT)
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = process.stdout.read(), process.stderr.read()
        assert process.returncode == 2, (stage, err)
        assert "Traceback" not in out + err, (stage, err)
        assert [line for line in err.splitlines() if line.startswith("error:")] == [
            "error: interrupted: nothing unfinished was published. "
            "Next: the same command continues."
        ]
        assert err.splitlines()[-1].startswith("error:")
        assert members(process.pid) == []
        assert not (home / "out/run.json").exists()
        for folder in (home / "out/seed-0").iterdir():
            whole = not folder.name.endswith(".partial")
            assert whole == (folder / "run.json").is_file(), folder
    finish(home, unbroken)


def test_ctrl_c_while_python_still_imports(home: Path) -> None:
    """From the first moment that our code runs: one line, no traceback."""
    process = start(home)
    time.sleep(0.35)  # the interpreter is up, torch is being imported or soon will be
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2, err
    assert "Traceback" not in err
    assert members(process.pid) == []
