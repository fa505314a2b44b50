"""What a merge leaves in its run record: the recipe, the models it read, its warnings."""

import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from smelt.core.names import short_names
from smelt.merge.model import Model
from smelt.merge.plan import MergePlan
from smelt.merge.recipe import MergeRecipe, ModuleEntry


def versions(device: str) -> dict[str, str]:
    """Versions of what did the arithmetic (that of smelt stands in every record)."""
    used = ["numpy", "numba"] if device == "cpu" else ["numpy", "torch"]
    return {name: version(name) for name in used}


def inputs(plan: MergePlan) -> dict[str, str]:
    """Input name -> folder, for core.run.Run: base, expert-1, expert-1-lora, slice-base-1 (a base
    of one slice alone), tokenizer (which the others have not). Each model has its own."""
    result: dict[str, str] = {}
    experts = {entry.model for entry in plan.recipe.entries()}
    groups: list[MergeRecipe | ModuleEntry] = [plan.recipe, *(plan.recipe.modules or {}).values()]
    bases = {part.base_model for group in groups for part in group.slices or []}
    counts: Counter[str] = Counter()
    for name, model in plan.models.items():
        label = "tokenizer"  # no recipe names two models for their tokenizers alone
        if name == plan.recipe.base_model:
            label = "base"
        elif name in experts or name in bases:
            kind = "expert" if name in experts else "slice-base"
            counts[kind] += 1
            label = f"{kind}-{counts[kind]}"
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
    short = short_names(list(plan.models))
    paths = [name for name in plan.models if _is_local(name) and "/" in name]
    texts = [text.replace(f"{plan.where}: ", "") for text in plan.warnings]
    if not paths:
        return texts
    any_path = re.compile("|".join(map(re.escape, sorted(paths, key=len, reverse=True))))
    return [any_path.sub(lambda found: short[found[0]], text) for text in texts]


def _is_local(name: str) -> bool:
    return Path(name).expanduser().is_dir()
