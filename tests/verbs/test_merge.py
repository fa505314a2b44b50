"""`smelt merge`: from the command line to a result folder, again and after a kill."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smelt.core import digest
from smelt.core.errors import UserError
from smelt.verbs.merge import check, execute, merge
from tests.pico import pico_llama

RECIPE = """\
merge_method: ties
base_model: models/base
models:
  - model: models/math
    parameters: {weight: 0.7, density: [0.2, 0.8]}
  - model: models/code
parameters: {int8_mask: true}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("base", "math", "code")):
        pico_llama(tmp_path / "models" / name, seed=seed)
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_merge_writes_a_result_folder(home: Path) -> None:
    merge("r.yaml", Path("out"))
    names = sorted(path.name for path in (home / "out").iterdir())
    assert names == [
        "README.md", "config.json", "cost.json", "generation_config.json", "model.safetensors",
        "run.json", "smoke.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    record = json.loads((home / "out/run.json").read_text())
    assert record["method"] == "ties"
    assert record["warnings"] == ["parameters.int8_mask has no effect on the numbers"]
    assert {name: facts["path"] for name, facts in record["inputs"].items()} == {
        "base": "models/base", "expert-1": "models/math", "expert-2": "models/code",
    }  # fmt: skip
    assert record["inputs"]["base"]["sha256"] == digest.path(home / "models/base")
    assert record["recipe"]["models"][0]["model"] == "models/math"
    card = (home / "out/README.md").read_text()
    assert record["inputs"]["expert-1"]["sha256"] in card
    assert "merge_method: ties" in card
    assert str(home) not in card + json.dumps(record)


def test_result_does_not_depend_on_the_place(home: Path) -> None:
    merge("r.yaml", Path("out"))
    other = home / "elsewhere"
    shutil.copytree(home / "models", other / "models")
    os.chdir(other)
    merge(str(home / "r.yaml"), other / "out")
    assert digest.files(home / "out") == digest.files(other / "out")


def test_second_start_says_done_and_other_recipe_is_refused(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    merge("r.yaml", Path("out"))
    before = (home / "out/cost.json").read_text()
    merge("r.yaml", Path("out"))
    assert "merge: out is done" in capfd.readouterr().err
    assert (home / "out/cost.json").read_text() == before
    with pytest.raises(UserError, match="the result of another recipe"):
        merge("r.yaml", Path("out"), settings=["parameters.lambda=0.5"])


def test_a_model_named_like_a_method_is_kept_apart(home: Path) -> None:
    (home / "models/math").rename(home / "ties")
    (home / "r.yaml").write_text(RECIPE.replace("models/math", "ties"))
    merge("r.yaml", Path("sub/out"))
    recipe = json.loads((home / "sub/out/run.json").read_text())["recipe"]
    assert recipe["merge_method"] == "ties"
    assert recipe["models"][0]["model"] == "../ties"


def test_check_describes_without_writing(home: Path) -> None:
    from smelt.core.config import read_yaml

    lines = check(read_yaml(home / "r.yaml"), where="r.yaml")
    assert lines[0] == "method ties: 20 tensors, 2 layers"
    assert any(": weight [0.7, 0.5], " in line and "density [0.8, 1]" in line for line in lines)
    assert any(line.startswith("expected: about ") for line in lines)
    named = check(read_yaml(home / "r.yaml"), where="r.yaml", every=True)
    assert sum(line.startswith("model.") for line in named) == 20
    assert sorted(path.name for path in home.iterdir()) == ["models", "r.yaml"]


def test_errors_come_before_any_work(home: Path) -> None:
    data = {"merge_method": "linear", "models": [{"model": "models/some/nope"}]}
    with pytest.raises(UserError, match="models/some/nope: no such folder"):
        execute(data, home / "out", where="r")
    assert not (home / "out").exists()
    assert not (home / "out.partial").exists()


def _command(out: str) -> list[str]:
    code = "from smelt.cli import main; main()"
    return [sys.executable, "-c", code, "merge", "r.yaml", out]


def test_user_errors_have_no_traceback(home: Path) -> None:
    (home / "r.yaml").write_text(RECIPE.replace("density", "densty"))
    result = subprocess.run(_command("out"), capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: r.yaml: models[0].parameters.densty: unknown key")
    assert "Traceback" not in result.stderr
