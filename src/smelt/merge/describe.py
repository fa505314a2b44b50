"""What a merge plan says to people: sizes, expected time and memory, values, warnings."""

from typing import Any

from smelt.checkpoint import layout
from smelt.merge.estimate import estimate
from smelt.merge.kinship.ancestry import ancestry
from smelt.merge.plan import MergePlan
from smelt.merge.tensors import TensorPlan


def describe(plan: MergePlan, *, every_tensor: bool = False) -> list[str]:
    """The plan for people: totals, the values (by groups of layers, or every tensor), warnings."""
    method = plan.method
    lines = [
        f"method {method.name}: {len(plan.tensors)} tensors, "
        f"{layout.num_layers(item.entry.name for item in plan.tensors)} layers",
        f"config from {plan.donor}, tokenizer from {_tokenizer_of(plan)}",
        f"reads {plan.bytes_read / 1e6:.1f} MB, writes {plan.bytes_written / 1e6:.1f} MB"
        f" ({plan.dtype or 'mixed types'})",
        str(estimate(plan)),
    ]
    if every_tensor:
        lines += [f"{item.entry.name}: {_sources(item)}: {_values(item)}" for item in plan.tensors]
    else:
        groups: dict[tuple[str, str], list[str]] = {}
        for item in sorted(plan.tensors, key=lambda one: _depth(one.entry.name)):
            groups.setdefault((_sources(item), _values(item)), []).append(item.entry.name)
        lines += [f"{_label(n)}: {models}: {values}" for (models, values), n in groups.items()]
    warnings = [*plan.warnings, *kinship(plan)]
    return lines + [f"warning: {text}" for text in warnings]


def kinship(plan: MergePlan) -> list[str]:
    """Warnings about ancestry, from a sample of the weights: strangers, or another likely base."""
    among = {model for item in plan.tensors for model, _ in item.places}
    models = {name: model for name, model in plan.models.items() if name in among}
    if len(models) < 2:
        return []
    found = ancestry(models)
    groups = [", ".join(family.models) for family in found.families]
    if len(groups) > 1:
        return [f"these do not seem to share a base: {' | '.join(groups)} (smelt inspect)"]
    family, base = found.families[0], plan.recipe.base_model
    sure = family.confidence in ("high", "medium")
    if base in models and sure and family.base not in (None, base):
        return [f"{family.base} looks more like the base than {base} (smelt inspect)"]
    return []


def _sources(item: TensorPlan) -> str:
    return ", ".join(dict.fromkeys(model for model, _ in item.experts))


def _values(item: TensorPlan) -> str:
    if item.copied:
        return "copied"
    moved = ", rows by token" if item.rows is not None else ""
    return ", ".join(f"{k.rstrip('_')} {_short(v)}" for k, v in item.values.items()) + moved


def _tokenizer_of(plan: MergePlan) -> str:
    if plan.vocabulary is None or plan.recipe.vocabulary is None:
        return plan.donor
    return f"{plan.recipe.vocabulary.source} ({plan.vocabulary.num_tokens} tokens)"


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
