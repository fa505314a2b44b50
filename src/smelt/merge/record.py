"""What a merge leaves in its run record: the recipe, the models it read, its warnings."""

from pathlib import Path
from typing import Any

from smelt.merge.plan import MergePlan
from smelt.merge.recipe import MergeRecipe


def model_paths(plan: MergePlan) -> dict[str, str]:
    """Model as the recipe names it -> its folder, absolute, so that no other word equals it."""
    return {name: str(model.folder.absolute()) for name, model in plan.models.items()}


def inputs(plan: MergePlan) -> dict[str, str]:
    """Input name (base, expert-1, expert-2, tokenizer) -> folder, for core.run.Run."""
    paths = model_paths(plan)
    result: dict[str, str] = {}
    experts = 0
    merged = {model for item in plan.tensors for model, _ in item.experts}
    for name in plan.models:
        if name == plan.recipe.base_model:
            result["base"] = paths[name]
        elif name in merged:
            experts += 1
            result[f"expert-{experts}"] = paths[name]
        else:
            result["tokenizer"] = paths[name]
    return result


def recipe_data(plan: MergePlan) -> dict[str, Any]:
    """The recipe as JSON data, its local models as absolute paths (Run makes them relative)."""
    paths = model_paths(plan)
    return with_models(plan.recipe, {name: paths[name] for name in paths if _is_local(name)})


def with_models(recipe: MergeRecipe, names: dict[str, str]) -> dict[str, Any]:
    """The recipe as data with other names for its models."""

    def renamed(key: str, item: Any) -> Any:
        if isinstance(item, dict):
            return {
                inner: value if inner == "parameters" else renamed(inner, value)
                for inner, value in item.items()
            }
        if isinstance(item, list):
            return [renamed(key, one) for one in item]
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
