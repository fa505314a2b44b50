"""Every shipped recipe: documented, sound, and all its keys known to the verbs of its stages."""

import importlib

import pytest

from smelt.core import registry
from smelt.verbs._options import read_recipe
from smelt.verbs.check import verb_of_recipe


@pytest.mark.parametrize("name", registry.names("recipe"))
def test_a_shipped_recipe_passes_its_verbs_check(name: str) -> None:
    data, where = read_recipe(name, None)
    verb = verb_of_recipe(data, where)
    if "/" in name:  # models of the hub: tests/search/test_unconstrained.py runs stand-ins
        folder = {"search": "search", "eval": "evals"}[verb]
        module = importlib.import_module(f"smelt.{folder}.by_config")
        lines = module.describe_by_config(data, where)
    else:  # recipes with inputs of their own cannot be shipped, so the whole check can run
        lines = importlib.import_module(f"smelt.verbs.{verb}").check(data, where=where)
    assert lines
    assert all(line and "\n" not in line for line in lines)


@pytest.mark.parametrize("name", registry.names("recipe"))
def test_it_says_what_it_is(name: str) -> None:
    line = registry.summary("recipe", name)
    assert 20 <= len(line) <= 110


@pytest.mark.parametrize("name", registry.names("recipe"))
def test_path_and_name_mean_the_same(name: str) -> None:
    assert read_recipe(f"recipes/{name}.yaml", None) == read_recipe(name, None)
