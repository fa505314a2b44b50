"""The run recipe: extends, $values, @references, and errors that say where."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from smelt.core.errors import UserError
from smelt.pipeline.recipe import located, read, references

STAGES = [
    {
        "name": "data",
        "verb": "data",
        "recipe": {"count": "$rows", "list": ["$rows", {"a": "$names"}]},
    },
    {"name": "base", "verb": "train", "recipe": {"text": "@data/train.jsonl", "price": "5 $ a@b"}},
    {"name": "eval", "verb": "eval", "recipe": {"models": {"base": "@base"}}},
]
SOUND = {"stages": STAGES, "values": {"rows": 3, "names": ["x", "y"]}, "seeds": [0, 5]}


def test_values_are_filled_with_their_types() -> None:
    recipe = read(SOUND, "r.yaml")
    assert recipe.stages[0].recipe == {"count": 3, "list": [3, {"a": ["x", "y"]}]}
    assert recipe.stages[1].recipe == {"text": "@data/train.jsonl", "price": "5 $ a@b"}
    assert recipe.values == {}
    assert recipe.seeds == [0, 5]
    assert SOUND["values"] == {"rows": 3, "names": ["x", "y"]}  # the data given is not changed


def test_references_and_places() -> None:
    item = {"a": "@one/x.json", "b": ["@two", {"c": "@one"}], "d": "mail@x", "e": 3}
    assert references(item) == ["one", "two", "one"]
    assert located(item, Path("/out/seed-1")) == {
        "a": "/out/seed-1/one/x.json",
        "b": ["/out/seed-1/two", {"c": "/out/seed-1/one"}],
        "d": "mail@x",
        "e": 3,
    }


def changed(**keys: Any) -> dict[str, Any]:
    return {**SOUND, **keys}


def stages(*rows: dict[str, Any]) -> dict[str, Any]:
    return changed(stages=[{"verb": "data", "recipe": {}, **row} for row in rows])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(sedes=[1]), "r.yaml: sedes: unknown key. Expected 'seeds'"),
        (changed(stages=[{"nam": "x", "verb": "data", "recipe": {}}]),
         "r.yaml: stages[0].nam: unknown key. Expected 'name'"),
        (changed(seeds=[]), "r.yaml: seeds: invalid"),
        (changed(seeds=[1, 1]), "r.yaml: seeds: found [1, 1]. Expected each seed once"),
        (changed(seeds=["0"]), "r.yaml: seeds[0]: found '0'. Expected a valid integer"),
        (changed(workers=0), "r.yaml: workers: found 0"),
        (changed(stages=[]), "r.yaml: stages: invalid"),
        (changed(values={"row": 3, "names": 1}),
         "r.yaml: stages[0] (data): '$rows' is no value. Expected 'row'"),
        (stages({"name": "a"}, {"name": "a"}), "r.yaml: stages[1].name: 'a' stands twice"),
        (stages({"name": "A b"}), "r.yaml: stages[0].name: 'A b' is no name"),
        (stages({"name": "../x"}), "r.yaml: stages[0].name: '../x' is no name"),
        (stages({"name": "base"}, {"name": "b", "recipe": {"x": "@bass"}}),
         "r.yaml: stages[1] (b): '@bass' is no earlier stage. Expected 'base'"),
        (stages({"name": "a", "recipe": {"x": "@a"}}),
         "r.yaml: stages[0] (a): '@a' is no earlier stage. Expected one of: none"),
        ({}, "r.yaml: stages"),
    ],
)  # fmt: skip
def test_errors(data: dict[str, Any], message: str) -> None:
    if data == {}:
        data = {"stages": None}
    with pytest.raises(UserError) as caught:
        read(data, "r.yaml")
    assert str(caught.value).startswith(message)


def test_extends_a_recipe_beside_it_and_merges_values(tmp_path: Path) -> None:
    below = {**SOUND, "title": "below", "workers": 2}
    (tmp_path / "below.yaml").write_text(yaml.safe_dump(below))
    middle = {"extends": "below.yaml", "values": {"rows": 4}, "title": "middle"}
    (tmp_path / "middle.yaml").write_text(yaml.safe_dump(middle))
    data = {"extends": "middle.yaml", "values": {"names": []}, "seeds": [7]}
    recipe = read(data, str(tmp_path / "top.yaml"))
    assert (recipe.title, recipe.workers, recipe.seeds) == ("middle", 2, [7])
    assert recipe.stages[0].recipe == {"count": 4, "list": [4, {"a": []}]}
    assert recipe.extends is None


def test_extends_a_shipped_recipe() -> None:
    recipe = read({"extends": "tiny", "seeds": [3]}, "mine.yaml")
    assert recipe.seeds == [3]
    assert len(recipe.stages) > 5


def test_extends_must_end(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(UserError, match=r"found 'a\.yaml'\. Expected a recipe that ends"):
        read({"extends": "a.yaml"}, str(tmp_path / "b.yaml"))
    with pytest.raises(UserError, match="'tiny'"):
        read({"extends": "tinny"}, str(tmp_path / "b.yaml"))
    with pytest.raises(UserError, match="extends: found 3"):
        read({"extends": 3}, "b.yaml")
    (tmp_path / "l.yaml").write_text("[1]")
    with pytest.raises(UserError, match="no mapping"):
        read({"extends": "l.yaml"}, str(tmp_path / "b.yaml"))
    with pytest.raises(UserError, match="values"):
        read({"extends": "tiny", "values": [1]}, str(tmp_path / "b.yaml"))


def test_the_report_is_an_html_file() -> None:
    assert read({**SOUND, "report": "r.html"}, "r.yaml").report == "r.html"
    with pytest.raises(UserError, match=r"r.yaml: report: found 'r.htm'. Expected .*\.html"):
        read({**SOUND, "report": "r.htm"}, "r.yaml")
