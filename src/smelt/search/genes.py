"""Genes: every `search` in a merge recipe, its range, and the way from [0, 1] to a value."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from smelt.core.errors import UserError, nearest
from smelt.merge.method import DEFAULT, Method, Parameter, load_method
from smelt.merge.recipe import model_name

MARK = "search"
FORM = "search, {search: [low, high]} or {search: [low, high], start: value}"


@dataclass(frozen=True)
class Gene:
    """A searched parameter: its recipe key, the model it belongs to (None: shared), its range;
    whole: it takes whole numbers only; choices: what it may be, when it is no number; start: where
    its search begins, None at what the recipe would say without it."""

    key: str
    name: str
    model: int | None
    low: float = 0.0
    high: float = 1.0
    whole: bool = False
    choices: tuple[Any, ...] = ()
    start: Any = None

    def value(self, unit: float) -> Any:
        """The parameter value at a number of a genome, 0 to 1."""
        if self.choices:
            return self.choices[self.choice(unit)]
        found = min(self.high, max(self.low, self.low + (self.high - self.low) * unit))
        return float(round(found)) if self.whole else found

    def choice(self, unit: float) -> int:
        """The index of the choice at a number of a genome: each has an equal share of [0, 1]."""
        return min(int(unit * len(self.choices)), len(self.choices) - 1)

    def unit(self, value: Any) -> float:
        """The number of a genome that gives a value; beyond the range, that of its nearest end.

        Raises ValueError for a choice that is not searched.
        """
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        return float(min(1.0, max(0.0, (value - self.low) / (self.high - self.low))))

    def number(self, unit: float) -> float:
        """The value as a number, for tables: of a choice its index, of a switch 0 or 1."""
        return float(self.choice(unit) if self.choices else self.value(unit))

    def __str__(self) -> str:
        words = self.choices and not isinstance(self.choices[0], bool)
        told = [f"{index} {word}" for index, word in enumerate(self.choices)] if words else []
        return f"{self.key} ({', '.join(told)})" if told else self.key


def is_mark(setting: Any) -> bool:
    """Whether a setting of a recipe is to be searched."""
    return setting == MARK or (isinstance(setting, dict) and MARK in setting)


def _marked(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {}
    return {key: value for key, value in settings.items() if is_mark(value)}


def _owners(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The places of a recipe that may be searched: the top and every model."""
    models = data.get("models")
    for owner in [data, *(models if isinstance(models, list) else [])]:
        if isinstance(owner, dict) and isinstance(owner.get("parameters"), dict):
            yield owner["parameters"]


def as_words(data: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the bare word in place of every mark with a range: a merge recipe in form."""
    words = copy.deepcopy(data)
    for settings in _owners(words):
        for key in _marked(settings):
            settings[key] = MARK
    return words


def find_genes(data: dict[str, Any], where: str) -> list[Gene]:
    """The genes of a recipe, shared ones first. Raises UserError when nothing says `search`.

    A per-expert parameter marked at the top level is searched for every model that does not set
    it; the base, where it is no expert, has none.
    """
    method = load_method(data.get("merge_method", DEFAULT))
    models = data.get("models")
    if not isinstance(models, list):
        found = next((key for key in ("slices", "modules") if key in data), "no list of models")
        found = f"a search over {found}" if found in data else found
        raise UserError(where, found, "`models`: a search merges whole models")
    base = data.get("base_model") if method.needs_base else None
    apart = None if base is None else model_name(base)
    genes: list[Gene] = []
    for key, mark in _marks(data.get("parameters"), f"{where}: parameters"):
        gene = _gene(key, mark, method, None, f"{where}: parameters.{key}")
        if not method.parameters[gene.key].per_expert:
            genes.append(gene)
            continue
        for index, entry in enumerate(models):
            own = {method.aliases.get(name, name) for name in entry.get("parameters") or {}}
            if gene.key not in own and model_name(entry["model"]) != apart:
                genes.append(replace(gene, model=index))
    for index, entry in enumerate(models):
        at = f"{where}: models[{index}].parameters"
        for key, mark in _marks(entry.get("parameters"), at):
            if model_name(entry["model"]) == apart:
                expected = "an expert: the base has no value"
                raise UserError(f"{at}.{key}", "searched for the base", expected)
            genes.append(_gene(key, mark, method, index, f"{at}.{key}"))
    if not genes:
        raise UserError(where, "nothing to search", "a parameter set to 'search'")
    seen = [(gene.key, gene.model) for gene in genes]
    if len(set(seen)) < len(seen):
        twice = next(key for key, model in seen if seen.count((key, model)) > 1)
        raise UserError(where, f"'{twice}' is searched twice", "one of its names")
    return genes


def _marks(settings: Any, where: str) -> list[tuple[str, Any]]:
    """Marked keys of one place. Raises UserError for a mark inside a list."""
    for key, setting in (settings or {}).items():
        for item in setting if isinstance(setting, list) else []:
            if is_mark(item) or (isinstance(item, dict) and is_mark(item.get("value"))):
                expected = f"the whole setting searched ({FORM})"
                next_step = "layer_groups and components give groups of tensors their own values"
                raise UserError(f"{where}.{key}", "`search` inside a list", expected, next_step)
    return list(_marked(settings).items())


def _gene(key: str, mark: Any, method: Method, model: int | None, where: str) -> Gene:
    parameter = method.parameters.get(method.aliases.get(key, key))
    if parameter is None:
        listed = nearest(key, list(method.parameters))
        raise UserError(where, f"'{key}' cannot be searched", f"what {method.name} takes: {listed}")
    if model is not None and not parameter.per_expert:
        expected = "the top level: it is one value for all models"
        raise UserError(where, f"'{key}' searched for one model", expected)
    given, start = None, None
    if isinstance(mark, dict):
        extra = [str(name) for name in mark if name not in (MARK, "start")]
        if extra:
            raise UserError(where, f"unknown key '{extra[0]}'", FORM)
        given, start = mark[MARK], mark.get("start")
        if given is None:
            raise UserError(where, "`search:` without bounds", FORM)
    span = parameter.span
    if span is None or span.boolean:
        gene = _choices(parameter, given, model, where)
    else:
        low, high = span.search_low, span.search_high
        if given is not None:
            low, high = _bounds(given, parameter, where)
        gene = Gene(parameter.key, parameter.name, model, low, high, span.whole)
        if parameter.start(1) is None:  # the recipe would have to say it
            gene = replace(gene, start=gene.value(0.5))
    return gene if start is None else replace(gene, start=_checked(gene, start, where))


def _choices(parameter: Parameter, given: Any, model: int | None, where: str) -> Gene:
    every = parameter.choices or (False, True)
    chosen = every if given is None else given
    good = isinstance(chosen, list | tuple) and all(_among(one, every) for one in chosen)
    if not good or len(set(chosen)) < max(2, len(chosen)):
        raise UserError(where, f"found {given!r}", f"a list of two or more of {list(every)}")
    default = parameter.start(1)
    start = None if default in chosen else chosen[0]
    return Gene(parameter.key, parameter.name, model, choices=tuple(chosen), start=start)


def _among(value: Any, choices: tuple[Any, ...]) -> bool:
    return any(type(value) is type(one) and value == one for one in choices)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bounds(given: Any, parameter: Parameter, where: str) -> tuple[float, float]:
    span = parameter.span
    assert span is not None
    kind = "whole numbers" if span.whole else "numbers"
    legal = f"{span.low:g} to {span.high:g}, the span of {parameter.key}"
    expected = f"[low, high], {kind} within {legal}"
    good = isinstance(given, list) and len(given) == 2 and all(map(_number, given))
    good = good and span.low <= given[0] < given[1] <= span.high
    if not good or (span.whole and any(one % 1 for one in given)):
        raise UserError(where, f"found {given!r}", expected)
    return float(given[0]), float(given[1])


def _checked(gene: Gene, start: Any, where: str) -> Any:
    place = f"{where}.start"
    if gene.choices:
        if not _among(start, gene.choices):
            raise UserError(place, f"found {start!r}", f"one of {list(gene.choices)}")
        return start
    if not _number(start) or not gene.low <= start <= gene.high or (gene.whole and start % 1):
        kind = "a whole number" if gene.whole else "a number"
        expected = f"{kind} within the bounds, {gene.low:g} to {gene.high:g}"
        raise UserError(place, f"found {start!r}", expected)
    return float(start)


def without_marks(data: dict[str, Any], genes: list[Gene]) -> dict[str, Any]:
    """The recipe with every mark removed, so that it is a plain one with the values of the start
    (the defaults, where no gene says another); models that will get values of their own have a
    `parameters` mapping."""
    plain = copy.deepcopy(data)
    plain["parameters"] = plain.get("parameters") or {}
    for settings in _owners(plain):
        for key in _marked(settings):
            del settings[key]
    for gene in genes:
        owner = plain if gene.model is None else plain["models"][gene.model]
        owner["parameters"] = owner.get("parameters") or {}
        if gene.start is not None:
            owner["parameters"][gene.key] = gene.start
    return plain
