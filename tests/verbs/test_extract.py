"""The verb: an adapter folder with its record, repeatable byte by byte."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smelt.checkpoint import peft
from smelt.checkpoint.adapter import Adapter
from smelt.checkpoint.reader import Checkpoint, read_json
from smelt.core import digest
from smelt.core.errors import UserError
from smelt.verbs.extract import check, execute, extract, shape
from tests.adapters import adapted, floats, llama_tensors, write_model

UP = "model.layers.0.mlp.up_proj.weight"
NORM = "model.norm.weight"


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    """A fine-tuned model and its base."""
    base = llama_tensors()
    model = {**base, UP: base[UP] + floats(40, 2) @ floats(2, 16), NORM: floats(16, seed=3)}
    (tmp_path / "in").mkdir()
    folder = write_model(tmp_path / "in" / "tuned", model)
    (folder / "tokenizer_config.json").write_text('{"chat_template": "hello"}')
    return str(folder), str(write_model(tmp_path / "in" / "base", base))


def recipe(models: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"model": models[0], "base": models[1], **more}


def test_result_folder(
    models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in ("a", "b"):
        execute(recipe(models), tmp_path / out, where="test")
    assert digest.files(tmp_path / "a") == digest.files(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [
        "README.md", peft.CONFIG, peft.WEIGHTS, "cost.json", "run.json", "tokenizer_config.json"
    ]  # fmt: skip
    record = read_json(tmp_path / "a" / "run.json")
    assert record["tensors"][UP] == pytest.approx(
        {"rank": 2, "energy": 1, "change": record["tensors"][UP]["change"]}, abs=1e-6
    )
    assert record["layers"]["up_proj"]["rank"] == [2, 2]
    assert record["saved_whole"] == ["model.norm"]
    assert record["recipe"] == {
        "model": "in/tuned", "base": "in/base", "rank": 32, "energy": None,
        "exclude": [], "save": [],
    }  # fmt: skip
    config, card = (tmp_path / "a" / name for name in (peft.CONFIG, "README.md"))
    assert read_json(config)["base_model_name_or_path"] == "in/base"
    assert "| up_proj | 1 | 2 | 1.0000 | 1.0000 |" in card.read_text()
    assert "base_model: in/base\n" in card.read_text()
    shown = capsys.readouterr().err
    assert "up_proj  1        2     1.0000  1.0000" in shown
    assert "stored whole: model.norm" in shown
    everything = (tmp_path / "a" / "run.json").read_text() + card.read_text() + config.read_text()
    assert str(tmp_path) not in everything


def test_the_adapter_gives_the_model_back(models: tuple[str, str], tmp_path: Path) -> None:
    execute(recipe(models), tmp_path / "out", where="test")
    base, model = Checkpoint.open(models[1]), Checkpoint.open(models[0])
    for name, array in adapted(Adapter.open(tmp_path / "out", base), base).items():
        np.testing.assert_allclose(array, model.array(name), rtol=0, atol=1e-5)


def test_an_adapted_model_is_extracted_anew(models: tuple[str, str], tmp_path: Path) -> None:
    """`base+lora` is a model too: here the adapter of rank 2 becomes one of rank 1."""
    execute(recipe(models), tmp_path / "lora", where="test")
    data = recipe((f"{models[1]}+{tmp_path / 'lora'}", models[1]), rank=1)
    execute(data, tmp_path / "out", where="test")
    record = read_json(tmp_path / "out" / "run.json")
    assert record["recipe"]["model"] == {"model": {"path": "in/base"}, "lora": {"path": "lora"}}
    assert sorted(record["inputs"]) == ["base", "model", "model-lora"]
    base, model = Checkpoint.open(models[1]), Checkpoint.open(models[0])
    found = adapted(Adapter.open(tmp_path / "out", base), base)
    change = (model.array(UP) - base.array(UP)).astype(np.float64)
    left, values, right = np.linalg.svd(change, full_matrices=False)
    best = base.array(UP) + values[0] * np.outer(left[:, 0], right[0])
    np.testing.assert_allclose(found[UP], best, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="has an adapter of its own"):
        check(recipe((models[0], data["model"])), where="test")


def test_second_time_is_done(
    models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(recipe(models), tmp_path / "out", where="test")
    monkeypatch.setattr("smelt.merge.lora.adapter_folder.write_adapter", None)  # any work calls it
    execute(recipe(models), tmp_path / "out", where="test")
    with pytest.raises(UserError, match="the result of another recipe"):
        execute(recipe(models, rank=1), tmp_path / "out", where="test")


def test_nothing_is_published_after_an_error(models: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no matrix differs"):
        execute(recipe(models, exclude=["mlp"]), tmp_path / "out", where="test")
    assert not (tmp_path / "out").exists()


def test_command(models: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(
        models[0], out, base=models[1], rank=8, energy=0.5, exclude=["norm"], settings=["rank=1"]
    )
    record = read_json(out / "run.json")
    assert (record["recipe"]["rank"], record["recipe"]["energy"]) == (1, 0.5)
    assert record["tensors"][UP]["rank"] == 1
    assert record["left_out"][NORM]["reason"] == "excluded"
    assert record["energy"] < record["tensors"][UP]["energy"] < 1


def test_check_says_what_it_would_do(models: tuple[str, str]) -> None:
    lines = check(recipe(models, rank=5), where="r.yaml")
    assert lines[0] == "11 tensors, 6 matrices, rank at most 5"
    assert "the largest eigenvalue problem has 16 rows" in lines[1]
    with pytest.raises(UserError, match=r"r\.yaml: base: missing"):
        shape({"model": "x"}, where="r.yaml")
    with pytest.raises(UserError, match="no such folder"):
        check({"model": "./nowhere", "base": models[1]}, where="r.yaml")
