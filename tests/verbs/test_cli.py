"""The command line as a whole: help, versions, exit codes, and one clear line for any bad input."""

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from smelt import __version__, cli
from smelt.core import registry
from smelt.core.errors import UserError
from tests.pico import pico_llama

Outcome = tuple[int, str, str]


@pytest.fixture
def smelt(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process; gives exit code, stdout, stderr."""

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["smelt", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_help_lists_every_verb_with_its_whole_summary(
    smelt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = smelt("--help")
    assert code == 0
    for name in registry.names("verb"):
        assert registry.summary("verb", name) in " ".join(out.split())
    assert "..." not in out.replace("[ARGS]...", "")


@pytest.mark.parametrize("name", registry.names("verb"))
def test_each_verb_shows_its_arguments(smelt: Any, name: str) -> None:
    code, out, _ = smelt(name, "--help")
    assert code == 0
    assert f"Usage: smelt {name}" in out
    assert "--help" in out
    assert registry.summary("verb", name).split(".")[0].split()[0] in out


def test_version(smelt: Any) -> None:
    assert smelt("--version") == (0, f"{__version__}\n", "")


def test_one_broken_verb_does_not_break_the_others(
    smelt: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(registry.folder("verb"), tmp_path / "verbs")
    (tmp_path / "verbs" / "broken.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "verbs" / "worse.py").write_text("def worse(:\n")
    monkeypatch.setitem(registry.KINDS, "verb", str(tmp_path / "verbs"))
    assert {"broken", "worse"} <= set(registry.names("verb"))
    code, out, _ = smelt("--help")
    assert code == 0
    assert "worse" in out


def test_only_the_called_verb_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    real = registry.load
    monkeypatch.setattr(
        registry, "load", lambda kind, name: loaded.append(name) or real(kind, name)
    )
    cli.app_for(["merge", "r.yaml"])
    assert loaded == ["merge"]
    cli.app_for(["--help"])
    assert loaded == ["merge"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("a", "b"), OSError(28, "full")])
def test_exit_codes_of_interrupts_user_errors_and_full_disks(
    smelt: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def ls(kind: str | None = None) -> None:
        raise error

    monkeypatch.setattr(registry, "load", lambda kind, name: ls)
    code, _, err = smelt("ls")
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_an_error_caused_by_an_interrupt_is_the_interrupt(
    smelt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted imports of numpy, scipy and transformers raise errors of their own."""

    def ls() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ModuleNotFoundError("Could not import module 'PreTrainedModel'") from None

    monkeypatch.setattr(registry, "load", lambda kind, name: ls)
    before = signal.getsignal(signal.SIGINT)
    assert smelt("ls") == (2, "", cli.INTERRUPTED + "\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_that_fell_into_a_callback_is_delivered_again(
    smelt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Callback:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def ls() -> None:
        callback = Callback()
        del callback  # Python swallows what is raised here
        time.sleep(5)

    monkeypatch.setattr(registry, "load", lambda kind, name: ls)
    begun = time.monotonic()
    assert smelt("ls") == (2, "", cli.INTERRUPTED + "\n")
    assert time.monotonic() - begun < 4


def test_defects_are_not_dressed_up(smelt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ls() -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(registry, "load", lambda kind, name: ls)
    with pytest.raises(ZeroDivisionError):
        smelt("ls")


# What is wrong -> (command line, what the one line must name). {} is the folder of the fixture.
MERGE = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]}
TRAIN = {"model": "a", "context": 64, "phases": [{"steps": 1, "mixture": [{"path": "rows.jsonl"}]}]}
RECIPES: dict[str, Any] = {
    "merge": MERGE,
    "key": {**MERGE, "parametres": {}},
    "method": {**MERGE, "merge_method": "tise"},
    "shapes": {**MERGE, "models": [{"model": "a"}, {"model": "wide"}]},
    "truncated": {**MERGE, "models": [{"model": "a"}, {"model": "truncated"}]},
    "escaping": {**MERGE, "models": [{"model": "a"}, {"model": "escaping"}]},
    "nowhere": {**MERGE, "models": [{"model": "a"}, {"model": "nowhere"}]},
    "train": TRAIN,
    "option": {**TRAIN, "options": {"ce_weigth": 1}},
    "stage": {**TRAIN, "stage": "sfd"},
    "tokenizer": {**TRAIN, "model": "small", "tokenizer": "a"},
    "empty": {**TRAIN, "phases": [{"steps": 1, "mixture": [{"path": "empty.jsonl"}]}]},
    "data": {"sources": [{"name": "jsonl", "path": "empty.jsonl"}]},
    "source": {"sources": [{"name": "jsonk"}]},
    "run": {"stages": [{"name": "m", "verb": "merge", "recipe": MERGE}], "report": None},
    "stage_key": {"stages": [{"name": "m", "verb": "merge", "recipe": {**MERGE, "modles": 1}}]},
}
BAD = {
    "wrong path": ("merge no.yaml out", "no.yaml: no such recipe file"),
    "unknown key": ("merge key.yaml out", "key.yaml: parametres: unknown key. Expected 'param"),
    "unknown method": ("merge method.yaml out", "'tise': no such plug-in. Expected 'ties'"),
    "no such model": ("merge nowhere.yaml out", "nowhere"),
    "different shapes": ("merge shapes.yaml out", "wide"),
    "truncated weights": ("merge truncated.yaml out", "truncated/model.safetensors"),
    "index leaves its folder": ("merge escaping.yaml out", "escaping"),
    "unknown option of a stage": ("train option.yaml out", "options.ce_weigth: unknown key"),
    "unknown stage": ("train stage.yaml out", "'sfd': no such plug-in. Expected 'sft'"),
    "tokenizer does not fit": ("train tokenizer.yaml out", "tokenizer"),
    "no rows to train on": ("train empty.yaml out", "empty.jsonl"),
    "empty data set": ("data data.yaml out", "no row left for train"),
    "unknown source": ("data source.yaml out", "Expected 'jsonl'"),
    "unwritable place": ("merge merge.yaml rows.jsonl/out", "rows.jsonl/out"),
    "folder of someone else": ("merge merge.yaml .", "a folder that is not ours|lies"),
    "a file as result": ("merge merge.yaml rows.jsonl", "rows.jsonl: not a folder"),
    "no result folder": ("merge merge.yaml", "no result folder"),
    "two result folders": ("merge merge.yaml one --out two", "two result folders: one and two"),
    "bad device": ("train train.yaml out --device gpu0", "--device: 'gpu0' cannot be used"),
    "bad device of a run": ("run run.yaml out --device gpu0", "--device: 'gpu0'"),
    "not a setting": ("merge merge.yaml out --set x", "--set x: not a setting"),
    "unknown setting": ("merge merge.yaml out --set modes=1", "modes: unknown key"),
    "unknown key in a stage": ("run stage_key.yaml out", r"stages\[0\] \(m\)"),
    "not a model": ("export rows.jsonl out", "rows.jsonl"),
    "unknown kind": ("ls filtre", "'filter'"),
    "unknown name": ("show filter min_lenght", "'min_length'"),
    "recipe of no verb": ("check strange.yaml", "no key says which verb"),
    "check of an unknown verb": ("check merge.yaml --verb merg", "'merge'"),
    "check of a verb without recipe": ("check merge.yaml --verb ls", "takes no recipe"),
    "no runs": ("report nowhere --out r.html", "nowhere"),
    "nothing to measure": ("eval a --out out", "nothing to measure"),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sound and broken models, data and recipes."""
    home = tmp_path_factory.mktemp("bench")
    pico_llama(home / "a", seed=0)
    pico_llama(home / "b", seed=1)
    pico_llama(home / "wide", hidden=48)
    shutil.copytree(home / "b", home / "truncated")
    weights = home / "truncated/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    shutil.copytree(home / "b", home / "escaping")
    (home / "escaping/model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../a/model.safetensors"}}
    (home / "escaping/model.safetensors.index.json").write_text(json.dumps(index))
    pico_llama(home / "small", vocab=300)
    row = {"id": "0" * 16, "text": "max[352]=5.", "prompt": "max[352]=", "source": "s",
           "domain": "math", "meta": {}}  # fmt: skip
    (home / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (home / "empty.jsonl").touch()
    (home / "strange.yaml").write_text("colour: red\n")
    for name, data in RECIPES.items():
        (home / f"{name}.yaml").write_text(yaml.safe_dump(data))
    return home


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_code_two(
    smelt: Any, bench: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, place = BAD[case]
    monkeypatch.chdir(bench)
    before = {path for path in bench.rglob("*") if ".partial" not in str(path)}
    code, out, err = smelt(*command.split())
    assert code == 2, (out, err)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert re.search(place, lines[0]), lines[0]
    # Nothing that looks like a result, or stands in the way of the next command.
    assert {path for path in bench.rglob("*") if ".partial" not in str(path)} == before
    for path in bench.glob("*.partial"):
        shutil.rmtree(path)


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("merg", "No such command 'merg'"),
        ("merge", "Missing argument 'RECIPE'"),
        ("merge a.yaml out --sed 1", "No such option"),
        ("merge a.yaml out --seed one", "Invalid value for '--seed'"),
        ("--nonsense", "No such option"),
    ],
)
def test_usage_errors_are_readable(smelt: Any, command: str, found: str) -> None:
    code, _, err = smelt(*command.split())
    assert code == 2
    assert found in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(smelt: Any, bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = bench / "locked"
    locked.mkdir(mode=0o555)
    monkeypatch.chdir(bench)
    code, _, err = smelt("merge", "merge.yaml", "locked/out")
    assert code == 2
    assert err.startswith("error: ")
    assert "locked/out" in err


def test_the_bench_is_sound_where_it_is_not_broken(
    smelt: Any, bench: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that the table above fails for the reason it names."""
    monkeypatch.chdir(bench)
    assert smelt("merge", "merge.yaml", str(tmp_path / "merged"))[0] == 0
    assert smelt("train", "train.yaml", str(tmp_path / "trained"))[0] == 0
    assert (tmp_path / "merged/run.json").is_file()
    assert (tmp_path / "trained/run.json").is_file()


def test_a_missing_extra_is_one_line_that_says_how_to_install_it(
    smelt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*arguments: object, **options: object) -> None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setattr(registry, "names", lacking)
    code, _, err = smelt("ls", "verb")
    assert code == 2
    assert err == (
        "error: transformers: not installed. Expected the extra 'train'. "
        "Next: pip install 'smelt[train]'\n"
    )
