"""What a merge leaves in its run record: the recipe, the models it read, its warnings."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from smelt.merge.model import Model
from smelt.merge.plan import MergePlan
from smelt.merge.recipe import MergeRecipe


def versions(device: str) -> dict[str, str]:
    """Versions of what did the arithmetic (that of smelt stands in every record)."""
    used = ["numpy", "numba"] if device == "cpu" else ["numpy", "torch"]
    return {name: version(name) for name in used}


def inputs(plan: MergePlan) -> dict[str, str]:
    """Input name (base, expert-1, expert-1-lora, tokenizer...) -> folder, for core.run.Run."""
    result: dict[str, str] = {}
    experts = 0
    merged = {model for item in plan.tensors for model, _ in item.places}
    for name, model in plan.models.items():
        label = "tokenizer"
        if name == plan.recipe.base_model:
            label = "base"
        elif name in merged:
            experts += 1
            label = f"expert-{experts}"
        for kind, folder in model.folders().items():
            result[label + kind] = str(folder.absolute())
    return result


def recipe_data(plan: MergePlan) -> dict[str, Any]:
    """The recipe as JSON data, its local models as absolute paths (Run makes them relative)."""
    names = {name: model.reference.data(_folders(model)) for name, model in plan.models.items()}
    measured = {
        entry.statistics: str(Path(entry.statistics).absolute())
        for entry in plan.recipe.entries()
        if entry.statistics is not None
    }
    return with_models(plan.recipe, names, measured)


def _folders(model: Model) -> dict[str, str]:
    """Local paths as the recipe has them -> absolute ones."""
    listed = {model.reference.path: model.folder}
    if model.adapter is not None and model.reference.lora is not None:
        listed[model.reference.lora] = model.adapter.folder
    return {text: str(folder.absolute()) for text, folder in listed.items() if _is_local(text)}


def with_models(
    recipe: MergeRecipe, names: dict[str, Any], statistics: dict[str, str] | None = None
) -> dict[str, Any]:
    """The recipe as data with other names for its models (and statistics folders)."""

    def renamed(key: str, item: Any) -> Any:
        if isinstance(item, dict):
            return {
                inner: value if inner == "parameters" else renamed(inner, value)
                for inner, value in item.items()
            }
        if isinstance(item, list):
            return [renamed(key, one) for one in item]
        if key == "statistics":
            return (statistics or {}).get(item, item)
        is_model = key in ("base_model", "model", "source", "tokenizer_source")
        return names.get(item, item) if is_model else item

    data: dict[str, Any] = renamed("", recipe.model_dump(exclude_none=True))
    return data


def warnings(plan: MergePlan) -> list[str]:
    """The plan's warnings without paths of this machine."""
    result = []
    for text in plan.warnings:
        plain = text.replace(f"{plan.where}: ", "")
        for name in sorted(plan.models, key=len, reverse=True):
            if _is_local(name) and "/" in name:
                plain = plain.replace(name, Path(name).name)
        result.append(plain)
    return result


def _is_local(name: str) -> bool:
    return Path(name).expanduser().is_dir()
