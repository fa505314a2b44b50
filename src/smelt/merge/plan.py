"""The plan of a merge: every tensor with its sources and values, checked before any work starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smelt.checkpoint import layout
from smelt.checkpoint.reader import DTYPES, Checkpoint
from smelt.checkpoint.writer import MAX_SHARD_BYTES
from smelt.core.errors import UserError
from smelt.merge import compatible
from smelt.merge.method import Method, load_method
from smelt.merge.parts import Part, parts_of
from smelt.merge.recipe import MergeRecipe, check_whole
from smelt.merge.tensors import MERGED, Layers, TensorPlan, plan_tensors


@dataclass(frozen=True)
class MergePlan:
    """A checked merge: what is read, what is computed, what is written."""

    recipe: MergeRecipe
    where: str
    method: Method
    models: dict[str, Checkpoint]
    """By the name in the recipe, base first."""
    donor: str
    """The model that gives config and, unless another is named, the tokenizer."""
    tokenizer: str
    config: dict[str, Any]
    dtype: str | None
    """Type of the result when it is one for all tensors."""
    tensors: list[TensorPlan]
    warnings: list[str]
    max_shard_bytes: int = MAX_SHARD_BYTES

    @property
    def bytes_read(self) -> int:
        """Bytes of all source tensors (a tensor used twice counts twice)."""
        places = [place for item in self.tensors for place in (item.base, *item.experts) if place]
        return sum(self.models[model].spec(name).num_bytes for model, name in places)

    @property
    def bytes_written(self) -> int:
        """Bytes of the result's tensors."""
        return sum(item.entry.num_bytes for item in self.tensors)


def plan(recipe: MergeRecipe, where: str, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> MergePlan:
    """Open all models, check that they fit, resolve every value. Raises UserError."""
    check_whole(recipe, where)
    method = load_method(recipe.merge_method)
    parts, warnings = parts_of(recipe, where, method)
    models = {name: Checkpoint.open(name) for name in recipe.model_names()}
    _check_distinct(models, where)
    # Never by chance: config and tokenizer come from the base, else from the first model.
    donor = recipe.base_model or parts[0].experts[0].model
    named = recipe.tokenizer_from
    tokenizer = donor if named in (None, "base") else str(named)
    merged = {one.model for part in parts for one in [*part.experts, part.base] if one}
    if donor not in merged:
        warnings.append(f"{method.name} takes only config and tokenizer from the base {donor}")
    checked = {name: model for name, model in models.items() if name in merged or name == donor}
    warnings += compatible.compare_configs(checked)
    warnings += compatible.compare_tokenizers(
        {**checked, tokenizer: models[tokenizer]}, tokenizer, source_is_named=named is not None
    )
    sources = {name: model for name, model in models.items() if name in merged}
    views, more = compatible.logical_names(sources)
    out_dtype = recipe.out_dtype or recipe.dtype
    tensors = plan_tensors(method, parts, Layers(models, views), out_dtype)
    return MergePlan(
        recipe=recipe,
        where=where,
        method=method,
        models=models,
        donor=donor,
        tokenizer=tokenizer,
        config=_config(models[donor].config, parts, models, tensors),
        dtype=_common_dtype(tensors),
        tensors=tensors,
        warnings=list(dict.fromkeys(warnings + more)),
        max_shard_bytes=max_shard_bytes,
    )


def _check_distinct(models: dict[str, Checkpoint], where: str) -> None:
    seen: dict[Path, str] = {}
    for name, model in models.items():
        folder = model.folder.resolve()
        if folder in seen:
            found = f"'{seen[folder]}' and '{name}' are the same folder"
            raise UserError(where, found, "one spelling for one model")
        seen[folder] = name


def _common_dtype(tensors: list[TensorPlan]) -> str | None:
    """The type of the result as a config.json has it, when it is one for all tensors."""
    dtypes = {item.entry.dtype for item in tensors if item.entry.dtype in MERGED}
    return DTYPES[dtypes.pop()].name if len(dtypes) == 1 else None


def _config(
    donor: dict[str, Any],
    parts: list[Part],
    models: dict[str, Checkpoint],
    tensors: list[TensorPlan],
) -> dict[str, Any]:
    """config.json of the result: the donor's, with the number of layers and the tie corrected."""
    config = dict(donor)
    names = [item.entry.name for item in tensors]
    if any(one.span for part in parts for one in part.experts):
        total = layout.num_layers(names)
        key = next((one for one in ("num_hidden_layers", "n_layer") if one in config), None)
        if key is None:
            raise UserError(
                parts[0].where, "slices of a config without num_hidden_layers", "models"
            )
        config[key] = total
        if isinstance(config.get("layer_types"), list):
            config["layer_types"] = _layer_types(parts, models)
    if None not in layout.head_and_embedding(names):
        config["tie_word_embeddings"] = False
    return config


def _layer_types(parts: list[Part], models: dict[str, Checkpoint]) -> list[str]:
    kinds: list[str] = []
    for part in parts:
        own = models[part.experts[0].model].config.get("layer_types") or []
        span = part.experts[0].span
        kinds += own[slice(*span)] if span else own
    return kinds


def describe(plan: MergePlan) -> list[str]:
    """The plan for people: totals, the values by groups of layers, and warnings."""
    method = plan.method
    lines = [
        f"method {method.name}: {len(plan.tensors)} tensors, "
        f"{layout.num_layers(item.entry.name for item in plan.tensors)} layers",
        f"config from {plan.donor}, tokenizer from {plan.tokenizer}",
        f"reads {plan.bytes_read / 1e6:.1f} MB, writes {plan.bytes_written / 1e6:.1f} MB"
        f" ({plan.dtype or 'mixed types'})",
    ]
    groups: dict[tuple[str, str], list[str]] = {}
    for item in sorted(plan.tensors, key=lambda one: _depth(one.entry.name)):
        models = ", ".join(dict.fromkeys(model for model, _ in item.experts))
        values = ", ".join(f"{name.rstrip('_')} {_short(one)}" for name, one in item.values.items())
        groups.setdefault((models, values), []).append(item.entry.name)
    for (models, values), names in groups.items():
        lines.append(f"{_label(names)}: {models}: {values}")
    return lines + [f"warning: {text}" for text in plan.warnings]


def _depth(name: str) -> tuple[int, str]:
    layer = layout.layer_of(name)
    return -1 if layer is None else layer, name


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()


def _label(names: list[str]) -> str:
    """`attention 0-3, mlp 0-3, embedding (30 tensors)`: the blocks and layers of a group."""
    layers: dict[str, set[int]] = {}
    for name in names:
        depths = layers.setdefault(layout.block_of(name), set())
        if (layer := layout.layer_of(name)) is not None:
            depths.add(layer)
    parts = [f"{block} {_runs(sorted(depths))}".strip() for block, depths in layers.items()]
    return f"{', '.join(sorted(parts))} ({len(names)} tensors)"


def _runs(numbers: list[int]) -> str:
    """Sorted numbers in short: `0-3 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(f"{low}-{high}" if high > low else f"{low}" for low, high in runs)
