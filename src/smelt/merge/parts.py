"""The slices of a recipe as the planner wants them: layers of models, with their settings."""

from collections.abc import Sequence
from dataclasses import dataclass

from smelt.core.errors import UserError
from smelt.merge.method import Method
from smelt.merge.recipe import MergeRecipe, ModelEntry, SliceSource
from smelt.merge.values import Level, check_level

Span = tuple[int, int]
"""[first layer, after the last)."""


@dataclass(frozen=True)
class Source:
    """One model of a part; `span` None means all its layers."""

    model: str
    span: Span | None
    level: Level


@dataclass(frozen=True)
class Part:
    """Consecutive layers of the result. `models` in a recipe is one part, each slice is one."""

    where: str
    experts: list[Source]
    base: Source | None
    common: list[Level]
    """Settings for all models: those of the slice, then those of the recipe."""


def parts_of(recipe: MergeRecipe, where: str, method: Method) -> tuple[list[Part], list[str]]:
    """The checked parts of a recipe, and warnings. Raises UserError; opens no file."""
    if method.needs_base and recipe.base_model is None:
        found = f"no base_model, which {method.name} needs"
        raise UserError(where, found, "the common ancestor of the models")
    top, warnings = check_level(f"{where}: parameters", recipe.parameters, method, one_model=False)
    parts = []
    if recipe.models is not None:
        parts.append(_part(f"{where}: models", recipe.models, [top], recipe, method, warnings))
    for index, entry in enumerate(recipe.slices or []):
        place = f"{where}: slices[{index}]"
        own, more = check_level(f"{place}.parameters", entry.parameters, method, one_model=False)
        warnings += more
        common = [own, top]
        parts.append(_part(f"{place}.sources", entry.sources, common, recipe, method, warnings))
    return parts, warnings


def _part(
    where: str,
    entries: Sequence[ModelEntry],
    common: list[Level],
    recipe: MergeRecipe,
    method: Method,
    warnings: list[str],
) -> Part:
    sources: list[Source] = []
    for index, entry in enumerate(entries):
        place = f"{where}[{index}]"
        level, more = check_level(f"{place}.parameters", entry.parameters, method, one_model=True)
        warnings += more
        span = tuple(entry.layer_range) if isinstance(entry, SliceSource) else None
        source = Source(entry.model, span, level)
        if any((one.model, one.span) == (source.model, source.span) for one in sources):
            raise UserError(place, f"{entry.model} stands twice", "each model once")
        sources.append(source)
    if len({one.span[1] - one.span[0] for one in sources if one.span}) > 1:
        raise UserError(where, "layer ranges of different lengths", "the same number of layers")
    base, experts = None, sources
    if method.needs_base:
        base, experts = _apart(sources, str(recipe.base_model), where)
        if base.level.settings:
            warnings.append(f"{base.level.where} has no effect: the base has no task vector")
    elif method.base_is_expert and recipe.base_model is not None:
        first, others = _apart(sources, recipe.base_model, where)
        experts = [first, *others]
    least, most = method.num_experts
    if len(experts) < least or (most is not None and len(experts) > most):
        wanted = f"{least}" if least == most else f"at least {least}"
        beside = ", beside the base" if method.needs_base else ""
        raise UserError(where, f"{len(experts)} models", f"{wanted} for {method.name}{beside}")
    return Part(where, experts, base, common)


def _apart(sources: list[Source], base: str, where: str) -> tuple[Source, list[Source]]:
    """The base among the sources, or the same layers of it when it is not listed; the others."""
    own = [one for one in sources if one.model == base]
    others = [one for one in sources if one.model != base]
    if own:
        if len(own) > 1:
            raise UserError(where, f"the base {base} stands twice", "the base once")
        return own[0], others
    spans = {one.span for one in others}
    if len(spans) != 1:
        expected = f"the base {base} among the sources, with its layer_range"
        raise UserError(where, "sources from different layers", expected)
    return Source(base, spans.pop(), Level(where, {})), others
