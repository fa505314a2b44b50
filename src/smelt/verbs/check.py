"""Validate a recipe without running it: every key and input, and what it would cost."""

import importlib
import sys
from typing import Annotated, Any

import typer

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.verbs._options import RecipePath, Settings, read_recipe

Verb = Annotated[str | None, typer.Option("--verb", help="The verb that the recipe is for.")]


def check(recipe: RecipePath, *, verb: Verb = None, settings: Settings = None) -> None:
    """Print what a recipe resolves to, with sizes and warnings; code 2 when something is wrong."""
    data, where = read_recipe(recipe, settings)
    chosen = verb or verb_of_recipe(data, where)
    registry.path_of("verb", chosen)
    module = importlib.import_module(f"smelt.verbs.{chosen}")
    if "check" not in vars(module) or module is sys.modules[__name__]:
        raise UserError(where, f"smelt {chosen} takes no recipe", "the verb of a recipe")
    for line in module.check(data, where=where):
        print(line)
    print(f"{where}: a sound recipe for smelt {chosen}")


def verb_of_recipe(data: dict[str, Any], where: str) -> str:
    """The verb of a recipe: its `verb` key, or the key that only that verb's recipes have."""
    if isinstance(data.get("verb"), str):
        return str(data["verb"])
    marks = {
        "stages": "run", "extends": "run", "search": "search", "merge_method": "merge",
        "pivot": "fuse", "phases": "train", "benchmarks": "eval", "text": "eval",
        "sources": "data", "targets": "export", "models": "merge", "slices": "merge",
    }  # fmt: skip
    for key, verb in marks.items():
        if key in data:
            return verb
    raise UserError(where, "no key says which verb it is for", "--verb VERB", "smelt ls verb")
