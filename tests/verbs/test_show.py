"""`smelt show`: what a plug-in is and every key it takes."""

import re
from typing import Annotated

import pytest
from pydantic import Field

from smelt.core import registry
from smelt.core.config import Recipe
from smelt.core.errors import UserError
from smelt.merge.method import load_method
from smelt.verbs.run import RUNNABLE
from smelt.verbs.show import recipe_class, rows_of, show

ALL = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]


class Inner(Recipe):
    """Inside."""

    share: float = Field(default=0.5, gt=0)
    """How much."""


class Outer(Recipe):
    """Around."""

    name: str
    """What it is
    called."""
    items: list[Inner] = Field(default=[])
    """Several."""
    lambda_: Annotated[int | None, Field(alias="lambda")] = None
    """A Greek letter."""


def test_rows_of_a_recipe() -> None:
    assert rows_of(Outer) == [
        ("name", "str, required. What it is called."),
        ("items", "list[Inner], optional. Several."),
        ("items.share", "float, default 0.5. How much."),
        ("lambda", "int | null, default None. A Greek letter."),
    ]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_everything_can_be_shown(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    show(kind, name)
    out = capsys.readouterr().out
    assert out.startswith(registry.summary(kind, name))
    if kind == "merge-method":
        keys = [line.split()[0] for line in out.splitlines() if re.match(r"  [a-z_]+  ", line)]
        assert keys == list(load_method(name).parameters)
    elif kind not in ("recipe", "verifier", "verb", "benchmark"):
        for parameter in registry.schema(registry.load(kind, name)):
            assert f"  {parameter.name.rstrip('_')}" in out
    assert "<class" not in out
    assert "object at 0x" not in out


def test_a_merge_method_shows_what_its_statistics_take_and_what_all_of_it_means(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show("merge-method", "ties")
    out = capsys.readouterr().out
    assert "  models:      1 or more\n  base_model:  needed\n" in out
    line = (
        "one for each expert, 0 to 1, default 1, searched from 0.1 to 1. Share of each task vector"
    )
    assert f"  density      {line} that is kept.\n" in out
    assert "  normalize    true or false, default true." in out
    assert "  rule         mergekit | paper, default mergekit.\n" in out


def test_the_limits_of_an_option_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    show("search-algorithm", "differential_evolution")
    out = capsys.readouterr().out
    assert "  population  int | null, default None, at least 5\n" in out
    assert "  factor      float, default 0.5, above 0, at most 2\n" in out


@pytest.mark.parametrize("verb", RUNNABLE)
def test_every_recipe_key_of_a_verb_is_shown_with_its_meaning(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cls = recipe_class(verb)
    assert cls is not None, "a verb with a recipe must be in the table of show"
    show("verb", verb)
    out = capsys.readouterr().out
    for name, field in cls.model_fields.items():
        key = f"search.{name}" if verb == "search" else field.alias or name
        assert f"\n  {key} " in out


def test_unknown_names_suggest() -> None:
    with pytest.raises(UserError, match="'sft'"):
        show("stage", "stf")
