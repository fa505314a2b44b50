"""The recipe of an export: a model, the files wanted, and the prompts that prove them."""

import inspect
from typing import Any

from pydantic import ConfigDict, Field

from smelt.core import config, registry
from smelt.core.config import Recipe
from smelt.core.errors import UserError


class TargetRecipe(Recipe):
    """One file: an export target and its own keys (`smelt show export-target NAME`)."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = "gguf"
    """Export target."""

    @property
    def keywords(self) -> dict[str, Any]:
        """The keys that belong to the target."""
        return dict(self.model_extra or {})


class ParityRecipe(Recipe):
    """The texts that the file and the source continue."""

    prompts: list[str] | None = Field(default=None, min_length=1)
    """Prompts; the default is a short built-in list of prose, code and arithmetic."""


class ExportRecipe(Recipe):
    """A checkpoint and the files to make of it."""

    model: str
    """Checkpoint folder."""
    targets: list[TargetRecipe] = Field(default=[TargetRecipe()], min_length=1)
    """Files to write; the default is one GGUF file."""
    parity: ParityRecipe = ParityRecipe()
    """How the files are compared with the model."""


def read(data: dict[str, Any], where: str) -> ExportRecipe:
    """A checked recipe, keys and values of the targets included. Raises UserError."""
    recipe = config.parse(ExportRecipe, data, where, "smelt show verb export")
    names: dict[str, int] = {}
    for index, target in enumerate(recipe.targets):
        place = f"{where}: targets[{index}]"
        registry.check_keywords("export-target", target.name, target.keywords, place)
        name = file_name(target)
        if name in names:
            raise UserError(place, f"the file {name} stands twice", "different targets")
        names[name] = index
    return recipe


def settings_of(target: TargetRecipe) -> dict[str, Any]:
    """All keywords of a target, defaults filled in."""
    known = registry.schema(registry.load("export-target", target.name))
    return {
        parameter.name: target.keywords.get(parameter.name, parameter.default)
        for parameter in known
        if parameter.name in target.keywords or parameter.default is not inspect.Parameter.empty
    }


def file_name(target: TargetRecipe) -> str:
    """`model-f16.gguf`: what the keywords say, and the target as suffix."""
    values = [str(value) for value in settings_of(target).values()]
    return "-".join(["model", *values]) + "." + target.name.rpartition(":")[2]
