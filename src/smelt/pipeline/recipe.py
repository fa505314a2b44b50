"""The run recipe: named stages, each a verb with its own recipe, linked by @references.

`@base/config.json` is a file in the result of stage `base`; `$steps` is the entry `steps` of
`values`. The stages run once for every seed, each in a folder of its own.
"""

import copy
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from smelt.core import config, registry
from smelt.core.config import Recipe
from smelt.core.errors import UserError, nearest

NAME = re.compile(r"[a-z][a-z0-9_]*")


class Stage(Recipe):
    """One verb with its recipe."""

    name: str
    """Folder of the result, and what `@name` refers to."""
    verb: str
    """Which verb."""
    recipe: dict[str, Any]
    """Its recipe."""


class RunRecipe(Recipe):
    """`smelt run`: stages in order, for every seed."""

    verb: Literal["run"] = "run"
    """Names the verb for `smelt check`."""
    extends: str | None = None
    """Another run recipe (beside this one, or shipped) whose keys this one replaces; `values` are
    merged key by key."""
    title: str = "smelt run"
    """Heading of the report."""
    seeds: list[int] = Field(default=[0], min_length=1)
    """Every stage runs once for each."""
    workers: int = Field(default=1, gt=0)
    """Seeds that run at the same time, each in a process of its own."""
    threads: int = Field(default=1, gt=0)
    """CPU threads of each worker. Sums in another order round differently, so another number can
    change the last bits of a result; a finished stage is not redone for it."""
    values: dict[str, Any] = Field(default={})
    """Numbers (or lists, texts) that stages name as `$key`."""
    stages: list[Stage] = Field(default=[], min_length=1)
    """What runs, in order."""
    report: str | None = "report.html"
    """Name of the HTML report in the result folder; null for none."""


def read(data: dict[str, Any], where: str) -> RunRecipe:
    """A checked recipe with `extends` and `$values` applied. Raises UserError."""
    data = _extended(copy.deepcopy(data), where, depth=0)
    recipe = config.parse(RunRecipe, data, where, "smelt show verb run")
    seen: list[str] = []
    stages = []
    for index, stage in enumerate(recipe.stages):
        place = f"{where}: stages[{index}]"
        if not NAME.fullmatch(stage.name) or stage.name in seen:
            found = "stands twice" if stage.name in seen else "is no name"
            raise UserError(f"{place}.name", f"'{stage.name}' {found}", "a new name of a-z, 0-9, _")
        filled = _fill(stage.recipe, recipe.values, f"{place} ({stage.name})")
        for reference in references(filled):
            if reference not in seen:
                raise UserError(f"{place} ({stage.name})", f"'@{reference}' is no earlier stage",
                                nearest(reference, seen))  # fmt: skip
        seen.append(stage.name)
        stages.append(Stage(name=stage.name, verb=stage.verb, recipe=filled))
    if recipe.report is not None and Path(recipe.report).suffix != ".html":
        raise UserError(f"{where}: report", f"found {recipe.report!r}", "a name that ends in .html")
    if len(set(recipe.seeds)) < len(recipe.seeds):
        raise UserError(f"{where}: seeds", f"found {recipe.seeds}", "each seed once")
    return recipe.model_copy(update={"stages": stages, "values": {}})


def _extended(data: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
    name = data.pop("extends", None)
    if name is None:
        return data
    if depth > 4 or not isinstance(name, str):
        raise UserError(f"{where}: extends", f"found {name!r}", "a recipe that ends somewhere")
    beside = Path(where).parent / name
    path = beside if beside.is_file() else registry.path_of("recipe", Path(name).stem)
    below = config.read_yaml(path)
    if not isinstance(below, dict):
        raise UserError(path, "no mapping in it", "a run recipe")
    below = _extended(below, str(path), depth + 1)
    for place, content in ((path, below), (where, data)):
        if not isinstance(content.get("values") or {}, dict):
            raise UserError(f"{place}: values", "no mapping", "names with their values")
    values = {**(below.get("values") or {}), **(data.get("values") or {})}
    return {**below, **data, "values": values}


def _fill(item: Any, values: dict[str, Any], where: str) -> Any:
    if isinstance(item, dict):
        return {key: _fill(value, values, where) for key, value in item.items()}
    if isinstance(item, list):
        return [_fill(value, values, where) for value in item]
    if isinstance(item, str) and item.startswith("$"):
        if item[1:] not in values:
            raise UserError(where, f"'{item}' is no value", nearest(item[1:], sorted(values)))
        return values[item[1:]]
    return item


def references(item: Any) -> list[str]:
    """Names of the stages that a recipe refers to."""
    if isinstance(item, dict):
        return [name for value in item.values() for name in references(value)]
    if isinstance(item, list):
        return [name for value in item for name in references(value)]
    if isinstance(item, str) and item.startswith("@"):
        return [item[1:].partition("/")[0]]
    return []


def located(item: Any, folder: Path) -> Any:
    """A recipe with every @reference as a path below a folder."""
    if isinstance(item, dict):
        return {key: located(value, folder) for key, value in item.items()}
    if isinstance(item, list):
        return [located(value, folder) for value in item]
    if isinstance(item, str) and item.startswith("@"):
        return str(folder / item[1:])
    return item
