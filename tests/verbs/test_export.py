"""The verb: a result folder that repeats byte by byte, and nothing published without proof."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smelt.core import digest
from smelt.core.errors import UserError
from smelt.verbs.export import check, execute, export
from tests.pico import pico_llama


@pytest.fixture(scope="module")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_llama(tmp_path_factory.mktemp("verb") / "model", hidden=48)


def recipe(folder: Path, *types: str, **more: Any) -> dict[str, Any]:
    targets = [{"name": "gguf", "quantize": kind} for kind in types]
    return {"model": str(folder), "targets": targets, "parity": {"prompts": ["max[352]="]}} | more


def test_result_folder(pico: Path, tmp_path: Path) -> None:
    data = recipe(pico, "f16", "q8_0")
    execute(data, tmp_path / "a", where="test")
    execute(data, tmp_path / "b", where="test")
    assert digest.files(tmp_path / "a") == digest.files(tmp_path / "b")
    found = sorted(path.name for path in (tmp_path / "a").iterdir())
    expected = ["README.md", "cost.json", "model-f16.gguf", "model-q8_0.gguf", "run.json"]
    assert found == expected
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert set(record["files"]) == set(record["parity"]) == {"model-f16.gguf", "model-q8_0.gguf"}
    for name, row in record["files"].items():
        assert row["bytes"] == (tmp_path / "a" / name).stat().st_size
        assert row["sha256"] == digest.file(tmp_path / "a" / name)
    assert record["files"]["model-f16.gguf"]["kept_f16"] == []
    assert len(record["files"]["model-q8_0.gguf"]["kept_f16"]) == 13  # rows of 48
    for row in record["parity"].values():
        assert row["mismatches"] == 0
        assert row["texts"] > 300
        assert row["kl"] <= row["kl_allowed"]
    card = (tmp_path / "a" / "README.md").read_text()
    assert "llama-cli -m model-f16.gguf" in card
    assert "13 matrices stay float16" in card
    assert str(tmp_path) not in card + json.dumps(record)


def test_second_time_is_done(pico: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = recipe(pico, "q8_0")
    execute(data, tmp_path / "a", where="test")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    monkeypatch.setattr("smelt.export.job.load_model", None)  # would be called by any work
    execute(data, tmp_path / "a", where="test")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before


def test_defaults_are_resolved(pico: Path, tmp_path: Path) -> None:
    execute({"model": str(pico)}, tmp_path / "a", where="test")
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["recipe"]["targets"] == [{"name": "gguf", "quantize": "f16"}]
    assert record["parity"]["model-f16.gguf"]["prompts"] == 6


def test_nothing_is_published_on_a_mismatch(
    pico: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smelt.export import pretokenizer

    names = dict.fromkeys(pretokenizer.NAMES, "gpt-2")
    monkeypatch.setattr(pretokenizer, "NAMES", names)
    with pytest.raises(UserError, match="tokenized otherwise by"):
        execute(recipe(pico, "f16"), tmp_path / "a", where="test")
    assert not (tmp_path / "a").exists()


def test_nothing_is_published_on_other_logits(
    pico: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = "smelt.export.targets.gguf.rotary_order"
    monkeypatch.setattr(target, lambda name, weight, llama: weight)  # a classic export defect
    with pytest.raises(UserError, match="divergence"):
        execute(recipe(pico, "f32"), tmp_path / "a", where="test")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"targets": [{"name": "ggfu"}]}, "'gguf'"),
        ({"targets": [{"name": "gguf", "quantise": "f16"}]}, "'quantize'"),
        ({"targets": [{"name": "gguf", "quantize": "q4_k"}]}, r"found 'q4_k'.*'q8_0'"),
        ({"targets": [{"name": "gguf"}, {"name": "gguf", "quantize": "f16"}]}, "stands twice"),
        ({"targets": []}, "targets"),
        ({"parity": {"prompts": [""]}}, r"prompts\[0\]: 0 tokens"),
        ({"parity": {"prompts": ["x " * 200]}}, "tokens. Expected 1 to 127"),
        ({"model": "./no-such-model"}, "no-such-model"),
    ],
)
def test_recipes_are_checked(pico: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        check(recipe(pico, "f16") | change, where="recipe.yaml")


def test_check_says_what_would_be_written(pico: Path) -> None:
    lines = "\n".join(check(recipe(pico, "q8_0"), where="recipe.yaml"))
    assert "model-q8_0.gguf" in lines
    assert "split 'smollm'" in lines


def test_command(pico: Path, tmp_path: Path) -> None:
    export(str(pico), tmp_path / "a", quantize=["f32"], settings=["parity.prompts=[a b]"])
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["recipe"]["parity"] == {"prompts": ["a b"]}
    assert (tmp_path / "a" / "model-f32.gguf").is_file()


def test_command_line_prints_no_traceback(tmp_path: Path) -> None:
    arguments = ["export", "./nowhere", str(tmp_path / "a")]
    code = "from smelt.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ./nowhere")
    assert "Traceback" not in done.stderr
