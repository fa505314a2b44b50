"""Every verb: a function of its file's name, documented, with the parts a pipeline needs."""

import importlib
import inspect

import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.verbs.run import RUNNABLE

VERBS = registry.names("verb")


@pytest.mark.parametrize("name", VERBS)
def test_the_command_has_its_files_name_and_help_for_every_argument(name: str) -> None:
    function = registry.load("verb", name)
    assert function.__name__ == name
    assert inspect.getdoc(function)
    for parameter in inspect.signature(function).parameters.values():
        notes = getattr(parameter.annotation, "__metadata__", ())
        assert any(getattr(note, "help", None) for note in notes), (name, parameter.name)


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_stage_has_execute_check_and_shape(name: str) -> None:
    module = importlib.import_module(f"smelt.verbs.{name}")
    keywords = inspect.signature(module.execute).parameters
    assert list(keywords)[:2] == ["data", "out"]
    assert {"where", "seed", "device", "replace"} <= set(keywords)
    for check in (module.shape, module.check):
        taken = inspect.signature(check).parameters.values()
        needed = [one.name for one in taken if one.default is inspect.Parameter.empty]
        assert needed == ["data", "where"]


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("part", ["shape", "check"])
def test_unknown_keys_and_empty_recipes_are_user_errors(name: str, part: str) -> None:
    function = getattr(importlib.import_module(f"smelt.verbs.{name}"), part)
    for data in ({}, {"no_such_key": 1}):
        with pytest.raises(UserError, match=r"r\.yaml"):
            function(data, where="r.yaml")


def test_every_stage_verb_is_a_verb() -> None:
    assert set(RUNNABLE) <= set(VERBS)
