"""What a recipe merges, as the planner wants it: modules, made of runs of layers of models."""

from collections.abc import Sequence
from dataclasses import dataclass

from smelt.core.errors import UserError
from smelt.merge.method import Method
from smelt.merge.recipe import (
    MergeRecipe,
    ModelEntry,
    ModuleEntry,
    Settings,
    SliceEntry,
    SliceSource,
)
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
    """Settings for all models: of the slice, of the module, of the recipe."""

    @property
    def sources(self) -> list[Source]:
        """Experts, then the base if there is one."""
        return [*self.experts, *([self.base] if self.base else [])]


@dataclass(frozen=True)
class Module:
    """The parts of one module; name None when the recipe does not speak of modules."""

    name: str | None
    parts: list[Part]


def modules_of(recipe: MergeRecipe, where: str, method: Method) -> tuple[list[Module], list[str]]:
    """The checked modules of a recipe, and warnings. Raises UserError; opens no file."""
    if method.needs_base is True and recipe.base_model is None:
        found = f"no base_model, which {method.name} needs"
        raise UserError(where, found, "the common ancestor of the models")
    reader = _Reader(recipe, method, [])
    top = reader.level(f"{where}: parameters", recipe.parameters)
    if recipe.modules is None:
        parts = reader.parts(where, ": ", recipe, [top])
        return [Module(None, parts)], reader.warnings
    modules = []
    for name, entry in recipe.modules.items():
        place = f"{where}: modules.{name}"
        own = reader.level(f"{place}.parameters", entry.parameters)
        modules.append(Module(name, reader.parts(place, ".", entry, [own, top])))
    return modules, reader.warnings


@dataclass(frozen=True)
class _Reader:
    recipe: MergeRecipe
    method: Method
    warnings: list[str]

    def level(self, where: str, given: Settings, *, one_model: bool = False) -> Level:
        level, more = check_level(where, given, self.method, one_model=one_model)
        self.warnings.extend(more)
        return level

    def parts(
        self, where: str, joint: str, entry: MergeRecipe | ModuleEntry, common: list[Level]
    ) -> list[Part]:
        if entry.models is not None:
            base = self.recipe.base_model
            return [self.part(f"{where}{joint}models", entry.models, common, base)]
        return [
            self.slice(f"{where}{joint}slices[{index}]", one, common)
            for index, one in enumerate(entry.slices or [])
        ]

    def slice(self, where: str, entry: SliceEntry, common: list[Level]) -> Part:
        if entry.residual_weight is not None:
            self.warnings.append(f"{where}.residual_weight has no effect, in mergekit as here")
        levels = [self.level(f"{where}.parameters", entry.parameters), *common]
        base = entry.base_model or self.recipe.base_model
        return self.part(f"{where}.sources", entry.sources, levels, base)

    def part(
        self, where: str, entries: Sequence[ModelEntry], common: list[Level], base: str | None
    ) -> Part:
        sources: list[Source] = []
        for index, entry in enumerate(entries):
            place = f"{where}[{index}]"
            level = self.level(f"{place}.parameters", entry.parameters, one_model=True)
            span = tuple(entry.layer_range) if isinstance(entry, SliceSource) else None
            source = Source(entry.model, span, level)
            if any((one.model, one.span) == (source.model, source.span) for one in sources):
                raise UserError(place, f"{entry.model} stands twice", "each model once")
            sources.append(source)
        if len({one.span[1] - one.span[0] for one in sources if one.span}) > 1:
            raise UserError(where, "layer ranges of different lengths", "the same number of layers")
        method, apart, experts = self.method, None, sources
        if method.needs_base and base is not None:
            apart, experts = _apart(sources, base, where)
            if apart.level.settings:
                self.warnings.append(
                    f"{apart.level.where} has no effect: the base has no task vector"
                )
        elif method.base_is_expert and base is not None:
            first, others = _apart(sources, base, where)
            experts = [first, *others]
        least, most = method.num_experts
        if len(experts) < least or (most is not None and len(experts) > most):
            wanted = f"{least}" if least == most else f"at least {least}"
            beside = ", beside the base" if apart is not None else ""
            found = f"{len(experts)} model{'s' if len(experts) != 1 else ''}"
            raise UserError(where, found, f"{wanted} for {method.name}{beside}")
        return Part(where, experts, apart, common)


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
