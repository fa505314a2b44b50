"""Kill -9 and Ctrl-C in every stage of a real pipeline: nothing half-finished, same bytes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from smelt.cli import INTERRUPTED, main
from smelt.core import digest, progress
from smelt.pipeline.recipe import Stage, located, read

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


def start(home: Path) -> "subprocess.Popen[bytes]":
    """`smelt run r.yaml out` in a process group of its own, as a shell starts it; what it prints
    is in `home/printed`."""
    with (home / "printed").open("w") as printed:
        return subprocess.Popen(
            [*COMMAND, "r.yaml", "out"],
            cwd=home,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=printed,
            stderr=printed,
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


def all_gone(group: int) -> bool:
    """Whether nobody of a group is left (Python's resource tracker goes a moment later)."""
    end = time.monotonic() + 5
    while members(group) and time.monotonic() < end:
        time.sleep(0.02)
    return not members(group)


def content(home: Path) -> dict[str, str]:
    """All bytes of a result tree but its costs."""
    return digest.files(home / "out")


def lines_of(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


def resumable(stage: str) -> Seen:
    """A whole training state is there (and may be on its way out)."""
    return lambda seed: bool(list((seed / f"{stage}.partial").glob("resume-*[0-9]")))


def journalled(seed: Path) -> bool:
    return lines_of(seed / "searched.partial/journal.jsonl") >= 2


def strike(home: Path, seen: Seen, number: int) -> "subprocess.Popen[bytes]":
    """Start, wait for a moment by looking at files, signal the whole group."""
    process = start(home)
    end = time.monotonic() + 60
    while not seen(home / "out/seed-0"):
        assert process.poll() is None, (home / "printed").read_text()
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
    assert process.wait(120) == 0, (home / "printed").read_text()
    assert len(list((home / "out/seed-0").iterdir())) == 10
    return home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def finish(home: Path, unbroken: Path) -> None:
    process = start(home)
    assert process.wait(120) == 0, (home / "printed").read_text()
    assert content(home) == content(unbroken)
    assert not [p for p in home.rglob("*") if p.name.endswith((".partial", ".old", ".lock"))]


def printed(home: Path) -> str:
    return (home / "printed").read_text()


def is_one_clear_line(err: str) -> bool:
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    return lines == [INTERRUPTED] and "Traceback" not in err


def test_kill_nine_and_ctrl_c_then_the_same_command_ends_with_the_same_bytes(
    home: Path, unbroken: Path
) -> None:
    for seen, number in (
        (resumable("base"), signal.SIGKILL),
        (journalled, signal.SIGINT),
        (resumable("fused"), signal.SIGKILL),
    ):
        process = strike(home, seen, number)
        if number == signal.SIGINT:
            assert process.returncode == 2, printed(home)
            assert is_one_clear_line(printed(home)), printed(home)
            assert printed(home).splitlines()[-1] == INTERRUPTED
            assert all_gone(process.pid)
        else:
            assert process.returncode == -signal.SIGKILL
        assert not (home / "out/run.json").exists()
        for folder in (home / "out/seed-0").iterdir():
            finished = not folder.name.endswith(".partial")
            assert finished == (folder / "run.json").is_file(), folder
    finish(home, unbroken)


def test_ctrl_c_while_python_still_imports(home: Path) -> None:
    process = start(home)
    maps = Path(f"/proc/{process.pid}/maps")
    while "torch" not in maps.read_text():  # its libraries are being loaded
        assert process.poll() is None, printed(home)
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 2, printed(home)
    assert printed(home) == INTERRUPTED + "\n"
    assert all_gone(process.pid)


def command_of(stage: Stage, file: Path, out: Path) -> list[str]:
    """The command line that runs one stage alone; its recipe is written to `file`."""
    file.write_text(yaml.safe_dump(stage.recipe, sort_keys=False))
    if stage.verb == "eval":
        return ["eval", "--recipe", str(file), "--out", str(out)]
    if stage.verb == "export":
        return ["export", stage.recipe["model"], str(out), "--quantize", "f16"]
    return [stage.verb, str(file), str(out)]


def stages() -> list[Stage]:
    return read(yaml.safe_load(RECIPE), "r.yaml").stages


# One stage for every verb, and the step of its progress at which Ctrl-C is pressed.
PRESSED = {
    "data": 60, "base": 7, "merged": 1, "searched": 3, "fused": 5, "eval": 2, "export": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", PRESSED)
def test_ctrl_c_in_every_verb(
    name: str,
    home: Path,
    unbroken: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A real SIGINT in the midst of the work, by the command line of the verb, in this process."""
    shutil.copytree(unbroken / "out", home / "out")
    monkeypatch.chdir(home)
    monkeypatch.setenv("SMELT_CACHE", str(home / "cache"))  # answers are asked for again
    folder = Path("out/seed-0")
    shutil.rmtree(folder / name)
    stage = next(stage for stage in stages() if stage.name == name)
    located_stage = stage.model_copy(update={"recipe": located(stage.recipe, folder)})
    command = command_of(located_stage, home / "stage.yaml", folder / name)
    monkeypatch.setattr(sys, "argv", ["smelt", *command])
    steps = 0

    def press(event: progress.Event) -> None:
        nonlocal steps
        steps += event[0] == "move"
        if steps == PRESSED[name] and event[0] == "move":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(progress, "_sink", press)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert steps == PRESSED[name], "the key was never pressed"
    assert is_one_clear_line(capfd.readouterr().err)
    assert not (folder / name).exists()
    assert (folder / f"{name}.partial").is_dir()
    # The same command, left alone, ends with the bytes of the pipeline that nobody touched.
    monkeypatch.setattr(progress, "_sink", lambda event: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.suppress(SystemExit):
        main()
    torch.set_num_threads(threads)
    assert content(home) == content(unbroken), capfd.readouterr().err
