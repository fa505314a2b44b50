"""`smelt run`: its checks, its default folder, and what it prints at the end."""

import html
from pathlib import Path
from typing import Any

import pytest
import yaml

from smelt.core.errors import UserError
from smelt.verbs._options import given_folder
from smelt.verbs.run import check, execute, run, verb_of

DATA = {
    "sources": [{"name": "composed", "tasks": ["basic"], "count": 40}],
    "splits": {"fitness": 0.1, "test": 0.1},
}
RECIPE: dict[str, Any] = {
    "stages": [{"name": "rows", "verb": "data", "recipe": DATA}],
    "seeds": [0],
    "report": None,
}


def test_check_names_stages_seeds_and_workers() -> None:
    lines = check({**RECIPE, "seeds": [1, 2], "workers": 2}, where="r")
    assert lines == ["rows: data", "seeds [1, 2], 2 at a time, 1 threads each"]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"verb": "dat"}, "verb 'dat': cannot be a stage. Expected 'data'"),
        ({"verb": "ls"}, "verb 'ls': cannot be a stage"),
        ({"recipe": {**DATA, "spilts": 1}}, "r: stages[0] (rows): spilts: unknown key"),
        ({"recipe": {"sources": [{"name": "composed", "tasks": ["basic"], "count": "x"}]}},
         "r: stages[0] (rows): sources[0].count: found 'x'"),
    ],
)  # fmt: skip
def test_a_stages_own_keys_are_checked_before_anything_runs(
    stage: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = {**RECIPE, "stages": [{**RECIPE["stages"][0], **stage}]}
    with pytest.raises(UserError) as caught:
        execute(data, tmp_path / "out", where="r")
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "out").exists()


def test_options() -> None:
    assert given_folder(Path("a"), None, "run") == given_folder(None, Path("a"), "run") == Path("a")
    assert given_folder(Path("a"), Path("a"), "run") == Path("a")
    assert given_folder(None, None, "run") is None
    with pytest.raises(UserError, match="smelt run: two result folders"):
        given_folder(Path("a"), Path("b"), "run")
    assert verb_of("data").__name__ == "execute"


def test_run_from_a_file_into_its_default_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(yaml.safe_dump(RECIPE))
    run("small.yaml", settings=["stages.0.recipe.sources.0.count=30"])
    rows = Path("out/small/seed-0/rows")
    assert (rows / "train.jsonl").is_file()
    assert Path("out/small/run.json").is_file()
    capfd.readouterr()
    run("small.yaml", settings=["stages.0.recipe.sources.0.count=30"])
    assert f"data: {rows.absolute()} is done" in capfd.readouterr().err


def test_the_page_shows_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the settings: without them the command would give other seeds."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(yaml.safe_dump({**RECIPE, "report": "page.html"}))
    run("small.yaml", Path("my out"), settings=["seeds=[3,4]"])
    text = html.unescape(Path("my out/page.html").read_text())
    assert "smelt run small.yaml 'my out' --set 'seeds=[3,4]'" in text
    execute({**RECIPE, "report": "page.html"}, tmp_path / "b", where="small.yaml")
    text = html.unescape(Path("b/page.html").read_text())
    assert f"smelt run small.yaml {tmp_path / 'b'}" in text


def test_a_package_that_a_late_stage_needs_is_missed_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    for package, extra in (("matplotlib", "report"), ("xllamacpp", "export")):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest, lacking=package: None if name == lacking else found(name, *rest),
        )
        with pytest.raises(UserError, match=rf"{package}: not installed.*smelt\[{extra}\]"):
            check({"verb": "run", "extends": "pico"}, where="r.yaml")
