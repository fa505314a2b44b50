"""The smoke test of a merge: sound, suspect, broken, not tested."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from smelt.checkpoint.reader import SINGLE, Checkpoint
from smelt.core.errors import UserError
from smelt.evals.smoke import smoke
from smelt.verbs.merge import execute
from tests.merge.conftest import load, rewrite
from tests.pico import pico_llama


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):
        pico_llama(tmp_path / name, seed=seed)
    return tmp_path


def test_a_copy_of_its_parent_is_sound_and_has_its_bits(home: Path) -> None:
    found = smoke(home / "a", {"a": home / "a", "b": home / "b"})
    assert found["verdict"] == "sound"
    assert found["model"] == found["parents"]["a"] != found["parents"]["b"]
    assert 1 < found["model"]["bits_per_byte"] < 20


def test_a_model_far_from_its_parents_is_suspect(home: Path) -> None:
    tensors = load(home / "b")
    name = "model.norm.weight"  # very sure of what it says, which is wrong
    rewrite(home / "b", tensors | {name: tensors[name] * 30})
    found = smoke(home / "b", {"a": home / "a"})
    assert found["verdict"].startswith("suspect: ")


def test_a_model_without_numbers_or_tensors_is_broken(home: Path) -> None:
    tensors = load(home / "b")
    rewrite(home / "b", {name: one * float("nan") for name, one in tensors.items()})
    assert smoke(home / "b", {"a": home / "a"})["verdict"].startswith("broken: ")
    tensors.pop("model.layers.1.mlp.down_proj.weight")
    rewrite(home / "b", tensors)
    verdict = smoke(home / "b", {"a": home / "a"})["verdict"]
    assert verdict.startswith("broken: ")
    assert "down_proj" in verdict


def test_parents_that_cannot_be_read_are_named(home: Path) -> None:
    (home / "a" / "tokenizer.json").unlink()
    verdict = smoke(home / "b", {"a": home / "a"})["verdict"]
    assert verdict.startswith("not tested: ")
    assert "tokenizer.json" in verdict


RECIPE: dict[str, Any] = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]}


def test_merge_tests_its_result_and_leaves_what_it_found(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    execute(RECIPE, home / "out", where="r")
    found = json.loads((home / "out/smoke.json").read_text())
    assert set(found["parents"]) == {"a", "b"}
    told = capfd.readouterr().err
    assert f"smoke test: {found['verdict']}" in told
    assert f"merged: {found['model']['bits_per_byte']} bits per byte" in told


def test_smoke_test_is_no_content_of_the_result(home: Path) -> None:
    from smelt.core import digest

    execute(RECIPE, home / "out", where="r", smoke=True)
    execute(RECIPE, home / "out2", where="r", smoke=False)
    assert not (home / "out2/smoke.json").exists()
    assert digest.files(home / "out") == digest.files(home / "out2")


def test_large_results_are_tested_only_when_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smelt.verbs.merge.SMOKE_BYTES", 10)
    execute(RECIPE, home / "out", where="r")
    assert "--smoke does it" in json.loads((home / "out/smoke.json").read_text())["verdict"]
    execute(RECIPE, home / "out2", where="r", smoke=True)
    assert "model" in json.loads((home / "out2/smoke.json").read_text())


def test_merged_values_are_what_was_tested(home: Path) -> None:
    execute(RECIPE, home / "out", where="r")
    assert (home / "out" / SINGLE).is_file()
    merged = Checkpoint.open(home / "out").read("model.norm.weight")
    assert torch.isfinite(merged).all()


def test_the_merge_is_published_before_it_is_tested(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Hazard: a system that kills the test for its memory must not take the merge with it."""

    def killed(model: Path, parents: dict[str, Path], *, device: str) -> dict[str, Any]:
        raise SystemExit(137)

    with monkeypatch.context() as patched:
        patched.setattr("smelt.evals.smoke.smoke", killed)
        with pytest.raises(SystemExit):
            execute(RECIPE, home / "out", where="r")
        assert (home / "out/run.json").is_file()
        assert not (home / "out.partial").exists()
        execute(RECIPE, home / "out", where="r")  # no second test that would be killed again
    assert "merge: " in capfd.readouterr().err
    assert not (home / "out/smoke.json").exists()
    execute(RECIPE, home / "out", where="r", smoke=True)  # unless it is asked for
    assert "model" in json.loads((home / "out/smoke.json").read_text())


OUT_OF_MEMORY: list[BaseException] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["parent", "model", "model, by transformers"])
def test_too_little_memory_is_not_the_fault_of_the_model(
    home: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, where: str
) -> None:
    def bits(folder: Path, device: str) -> dict[str, float]:
        if (folder.name == "a") != (where == "parent"):
            return {"bits_per_byte": 2.0, "perplexity": 3.0}
        if where == "model, by transformers":
            raise UserError(folder, "cannot be loaded") from error
        raise error

    monkeypatch.setattr("smelt.evals.smoke._bits", bits)
    found = smoke(home / "b", {"a": home / "a"}, device="cpu")
    assert found["verdict"] == "not tested: out of memory on cpu"


def test_other_errors_of_torch_stay_errors(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bits(folder: Path, device: str) -> dict[str, float]:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("smelt.evals.smoke._bits", bits)
    with pytest.raises(RuntimeError, match="shapes"):
        smoke(home / "b", {"a": home / "a"})


def test_parents_of_one_name_are_kept_apart(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for old, new in (("a", "runs/a/final"), ("b", "runs/b/final")):
        (home / new).parent.mkdir(parents=True)
        (home / old).rename(home / new)
    pico_llama(home / "merged", seed=2)
    names = ["runs/a/final", "runs/b/final", "merged"]
    recipe = {"merge_method": "linear", "models": [{"model": name} for name in names]}
    execute(recipe, home / "out", where="r")
    found = json.loads((home / "out/smoke.json").read_text())
    assert set(found["parents"]) == {"a/final", "b/final", "merged"}
    told = capfd.readouterr().err
    for name, bits in [("this merge", found["model"]), *found["parents"].items()]:
        assert f"  {name}: {bits['bits_per_byte']} bits per byte" in told
    assert told.count("  merged: ") == 1
