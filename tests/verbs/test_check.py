"""`smelt check`: which verb a recipe is for, and what it would do."""

from pathlib import Path
from typing import Any

import pytest

from smelt.core.errors import UserError
from smelt.verbs.check import check, verb_of_recipe


@pytest.mark.parametrize(
    ("data", "verb"),
    [
        ({"verb": "train"}, "train"),
        ({"merge_method": "ties", "models": []}, "merge"),
        ({"slices": []}, "merge"),
        ({"merge_method": "ties", "search": {}}, "search"),
        ({"pivot": "a", "phases": []}, "fuse"),
        ({"phases": []}, "train"),
        ({"models": {}, "benchmarks": []}, "eval"),
        ({"models": {}, "text": {}}, "eval"),
        ({"sources": []}, "data"),
        ({"model": "a", "targets": []}, "export"),
        ({"stages": []}, "run"),
        ({"extends": "tiny"}, "run"),
    ],
)
def test_the_verb_of_a_recipe(data: dict[str, Any], verb: str) -> None:
    assert verb_of_recipe(data, "r") == verb


def test_no_verb() -> None:
    with pytest.raises(UserError, match="r: no key says which verb it is for"):
        verb_of_recipe({"x": 1}, "r")


def test_check_prints_the_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_text("sources: [{name: composed, tasks: [basic], count: 7}]\n")
    check(str(path), settings=["sources.0.count=9"])
    out = capsys.readouterr().out
    assert "at most 9 rows" in out
    assert out.splitlines()[-1] == f"{path}: a sound recipe for smelt data"
    with pytest.raises(UserError, match="sources: unknown key"):
        check(str(path), verb="merge")
