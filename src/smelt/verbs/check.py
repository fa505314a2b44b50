"""Validate a recipe without running it: every key and input, and what it would cost."""

import importlib
import inspect
import sys
from typing import Annotated, Any

import typer

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.verbs._options import RecipePath, Settings, read_recipe

Every = Annotated[
    bool, typer.Option("-v", "--verbose", help="A merge: the values of every single tensor.")
]
ConfigOnly = Annotated[
    bool,
    typer.Option("--config-only", help="Read configurations, not weights (search and eval)."),
]
Verb = Annotated[str | None, typer.Option("--verb", help="The verb that the recipe is for.")]


def check(
    recipe: RecipePath,
    *,
    verb: Verb = None,
    every: Every = False,
    config_only: ConfigOnly = False,
    settings: Settings = None,
) -> None:
    """Print what a recipe resolves to, with sizes and warnings; code 2 when something is wrong."""
    data, where = read_recipe(recipe, settings)
    chosen = verb or verb_of_recipe(data, where)
    registry.path_of("verb", chosen)
    module = importlib.import_module(f"smelt.verbs.{chosen}")
    if "check" not in vars(module) or module is sys.modules[__name__]:
        raise UserError(where, f"smelt {chosen} takes no recipe", "the verb of a recipe")
    if config_only:
        for line in _by_config(chosen, data, where):
            print(line)
        print(f"{where}: a sound recipe for smelt {chosen}, as far as configurations tell")
        return
    asked = {"every": True} if every else {}
    if every and "every" not in inspect.signature(module.check).parameters:
        raise UserError(f"smelt check {where}", "--verbose", "a merge recipe for it")
    for line in module.check(data, where=where, **asked):
        print(line)
    print(f"{where}: a sound recipe for smelt {chosen}")


def _by_config(verb: str, data: dict[str, Any], where: str) -> list[str]:
    folder = {"search": "search", "eval": "evals"}.get(verb)
    if folder is None:
        raise UserError(f"smelt check {where}", "--config-only", "a search or eval recipe for it")
    module = importlib.import_module(f"smelt.{folder}.by_config")
    return list(module.describe_by_config(data, where))


def verb_of_recipe(data: dict[str, Any], where: str) -> str:
    """The verb of a recipe: its `verb` key, or the key that only that verb's recipes have."""
    if isinstance(data.get("verb"), str):
        return str(data["verb"])
    marks = {
        "stages": "run", "extends": "run", "search": "search", "merge_method": "merge",
        "pivot": "fuse", "phases": "train", "benchmarks": "eval", "text": "eval",
        "sources": "data", "targets": "export",
        "models": "merge", "slices": "merge", "modules": "merge",
    }  # fmt: skip
    for key, verb in marks.items():
        if key in data:
            return verb
    raise UserError(where, "no key says which verb it is for", "--verb VERB", "smelt ls verb")
