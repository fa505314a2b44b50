"""`smelt inspect` on the command line: tables alone, or a result folder with a page."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smelt import cli
from smelt.core import digest
from smelt.core.errors import UserError
from smelt.verbs.inspect import execute, inspect
from tests.merge.conftest import finetune
from tests.pico import pico_llama

ARGUMENTS = ["inspect", "models/math", "models/code", "--base", "models/base"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inspect")
    base = pico_llama(root / "models/base")
    finetune(base, root / "models/math", 1)
    finetune(base, root / "models/code", 2)
    return root


def test_the_table_alone_writes_nothing(home: Path) -> None:
    before = sorted(home.rglob("*"))
    result = CliRunner().invoke(cli.app_for(["inspect"]), ARGUMENTS)
    assert result.exit_code == 0, result.output
    assert "base, math, code share a base; base looks like it (confidence: medium)" in result.stdout
    assert "math and code" in result.stdout
    assert "early attention" in result.stdout
    assert sorted(home.rglob("*")) == before


def test_a_row_for_each_layer(home: Path) -> None:
    result = CliRunner().invoke(cli.app_for(["inspect"]), [*ARGUMENTS, "--layers"])
    assert result.exit_code == 0, result.output
    assert "layer 1 mlp" in result.stdout


def test_a_result_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(["models/math", "models/code"], base="models/base", out=Path("look"))
    assert sorted(path.name for path in (home / "look").iterdir()) == [
        "cost.json", "inspect.html", "inspect.json", "run.json",
    ]  # fmt: skip
    first = capsys.readouterr()
    assert "math and code" in first.out
    record = json.loads((home / "look/inspect.json").read_text())
    assert record["models"] == ["base", "math", "code"]
    page = (home / "look/inspect.html").read_text()
    assert "smelt inspect models/math models/code --base models/base --out look" in page
    run = json.loads((home / "look/run.json").read_text())
    assert run["families"] == [
        {"models": ["base", "math", "code"], "base": "base", "confidence": "medium"}
    ]
    assert run["inputs"]["math"]["path"] == "models/math"
    for text in (page, json.dumps(record), json.dumps(run)):
        assert str(home) not in text
    inspect(["models/math", "models/code"], base="models/base", out=Path("look"))
    again = capsys.readouterr()
    assert "look is done" in again.err
    assert again.out == first.out


def test_the_result_does_not_depend_on_the_place(home: Path) -> None:
    execute(["models/math", "models/code"], None, Path("look"))
    other = home / "elsewhere"
    shutil.copytree(home / "models", other / "models")
    os.chdir(other)
    execute([str(other / "models/math"), "models/code/"], None, other / "look")
    assert digest.files(home / "look") == digest.files(other / "look")


def test_user_errors(home: Path) -> None:
    for models, base, message in (
        (["models/math"], None, "two models"),
        (["models/base"], "models/base", "two models"),
        (["models/math", "./models/math"], None, "the same model"),
        (["models/math", "./nowhere"], None, "no such folder"),
        (["models/math", "models/code"], "./nowhere", "no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            execute(models, base, Path("look"))
        assert not (home / "look").exists()


def test_the_base_may_stand_among_the_models(home: Path) -> None:
    execute(["models/math", "models/base", "models/code"], "models/base", Path("a"))
    execute(["models/math", "models/code"], "models/base", Path("b"))
    assert (home / "a/inspect.json").read_bytes() == (home / "b/inspect.json").read_bytes()


def test_torch_is_not_imported(home: Path) -> None:
    code = (
        "import sys; from smelt.verbs.inspect import inspect\n"
        "from pathlib import Path\n"
        "inspect(['models/math', 'models/code'], base='models/base', out=Path('look'))\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
