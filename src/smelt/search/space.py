"""Genome and recipe: every `search` in a merge recipe becomes one gene per layer group."""

import copy
from dataclasses import dataclass, replace
from typing import Any

from smelt.checkpoint.layout import layer_of
from smelt.core.errors import UserError
from smelt.merge.method import DEFAULT, Method, load_method
from smelt.merge.parameters import matches
from smelt.merge.recipe import model_name

MARK = "search"


@dataclass(frozen=True)
class Gene:
    """A searched parameter: its recipe key, the model it belongs to (None: shared), its range;
    whole: it takes whole numbers only."""

    key: str
    name: str
    model: int | None
    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True)
class Group:
    """Tensors that share one gene: layers [first, last], or every tensor outside the layers."""

    label: str
    tensors: frozenset[str]
    filters: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """The search space. A genome is a list of numbers in [0, 1], gene by gene, group by group."""

    data: dict[str, Any]
    genes: list[Gene]
    groups: list[Group]

    @property
    def size(self) -> int:
        """Length of a genome."""
        return len(self.genes) * len(self.groups)

    def value(self, genome: list[float], gene: int, group: int) -> float:
        """The parameter value of a gene in a group."""
        spot = self.genes[gene]
        found = spot.low + (spot.high - spot.low) * genome[gene * len(self.groups) + group]
        return float(round(found)) if spot.whole else found

    def encode(self, values: list[list[float]]) -> list[float]:
        """The genome of parameter values [gene][group], clipped to the searchable range."""
        return [
            min(1.0, max(0.0, (value - gene.low) / (gene.high - gene.low)))
            for gene, row in zip(self.genes, values, strict=True)
            for value in row
        ]

    def group_of(self, tensor: str) -> int:
        """Index of the group of a tensor."""
        return next(i for i, group in enumerate(self.groups) if tensor in group.tensors)

    def parameters(
        self, genome: list[float], tensor: str, plain: dict[str, Any], experts: list[str]
    ) -> dict[str, Any]:
        """Keyword values of the merge method for one tensor.

        plain: the values that the recipe gives it without any gene (none for a tensor that is
        copied, which gets none); experts: names of the models in the order of per-expert values
        (which leaves out, or moves, the base).
        """
        if not plain:
            return {}
        group = self.group_of(tensor)
        found = dict(plain)
        for index, gene in enumerate(self.genes):
            value = self.value(genome, index, group)
            if gene.model is None:
                found[gene.name] = value
            else:
                found[gene.name] = list(found[gene.name])
                found[gene.name][self.place(gene, experts)] = value
        return found

    def place(self, gene: Gene, experts: list[str]) -> int:
        """Where the value of a gene stands among per-expert values."""
        return experts.index(model_name(self.data["models"][gene.model]["model"]))

    def recipe(self, genome: list[float]) -> dict[str, Any]:
        """A plain merge recipe with the values of a genome (filters by layer when grouped)."""
        data = copy.deepcopy(self.data)
        for index, gene in enumerate(self.genes):
            values = [self.value(genome, index, group) for group in range(len(self.groups))]
            setting: Any = values[0]
            if len(self.groups) > 1:
                setting = [
                    {"filter": pattern, "value": value}
                    for group, value in zip(self.groups, values, strict=True)
                    for pattern in group.filters
                ]
            owner = data if gene.model is None else data["models"][gene.model]
            owner["parameters"][gene.key] = setting
        return data


def _marked(settings: dict[str, Any] | None) -> list[str]:
    return [key for key, value in (settings or {}).items() if value == MARK]


def _gene(key: str, method: Method, model: int | None, where: str) -> Gene:
    parameter = method.parameters.get(method.aliases.get(key, key))
    if parameter is None or parameter.span is None or parameter.span.boolean:
        numbers = [
            name for name, one in method.parameters.items() if one.span and not one.span.boolean
        ]
        raise UserError(where, f"'{key}' cannot be searched", f"one of: {', '.join(numbers)}")
    if model is not None and not parameter.per_expert:
        expected = "the top level: it is one value for all models"
        raise UserError(where, f"'{key}' searched for one model", expected)
    span = parameter.span
    low, high = span.search_low, span.search_high
    return Gene(parameter.key, parameter.name, model, low, high, span.whole)


def find_genes(data: dict[str, Any], where: str) -> list[Gene]:
    """The genes of a recipe, shared ones first. Raises UserError when nothing says `search`.

    A per-expert parameter marked at the top level is searched for every model that does not set
    it; the base, where it is no expert, has none.
    """
    method = load_method(data.get("merge_method", DEFAULT))
    models = data.get("models")
    if not isinstance(models, list):
        raise UserError(where, "no list of models", "a search merges whole models")
    base = data.get("base_model") if method.needs_base else None
    apart = None if base is None else model_name(base)
    genes: list[Gene] = []
    for key in _marked(data.get("parameters")):
        gene = _gene(key, method, None, f"{where}: parameters.{key}")
        if not method.parameters[gene.key].per_expert:
            genes.append(gene)
            continue
        for index, entry in enumerate(models):
            own = {method.aliases.get(name, name) for name in entry.get("parameters") or {}}
            if gene.key not in own and model_name(entry["model"]) != apart:
                genes.append(replace(gene, model=index))
    for index, entry in enumerate(models):
        for key in _marked(entry.get("parameters")):
            place = f"{where}: models[{index}].parameters.{key}"
            if model_name(entry["model"]) == apart:
                raise UserError(place, "searched for the base", "an expert: the base has no value")
            genes.append(_gene(key, method, index, place))
    if not genes:
        raise UserError(where, "nothing to search", "a parameter set to 'search'")
    seen = [(gene.key, gene.model) for gene in genes]
    if len(set(seen)) < len(seen):
        twice = next(key for key, model in seen if seen.count((key, model)) > 1)
        raise UserError(where, f"'{twice}' is searched twice", "one of its names")
    return genes


def without_marks(data: dict[str, Any], genes: list[Gene]) -> dict[str, Any]:
    """The recipe with every mark removed, so that it is a plain one with default values; models
    that will get values of their own have a `parameters` mapping."""
    plain = copy.deepcopy(data)
    plain.setdefault("parameters", {})
    for owner in [plain, *plain["models"]]:
        for key in _marked(owner.get("parameters")):
            del owner["parameters"][key]
    for gene in genes:
        if gene.model is not None:
            plain["models"][gene.model].setdefault("parameters", {})
    return plain


def group_tensors(names: list[str], layer_groups: int | str, where: str) -> list[Group]:
    """Layers cut into consecutive groups of near-equal size; what is outside is a last group."""
    if layer_groups == 1:
        return [Group("all", frozenset(names), ("*",))]
    layers = sorted({layer for name in names if (layer := layer_of(name)) is not None})
    count = len(layers) if layer_groups == "all" else int(layer_groups)
    if count > len(layers):
        raise UserError(
            f"{where}: layer_groups", f"found {count}", f"at most {len(layers)}, or all"
        )
    groups = []
    for index in range(count):
        part = layers[index * len(layers) // count : (index + 1) * len(layers) // count]
        inside = [name for name in names if layer_of(name) in part]
        patterns = tuple(dict.fromkeys(_prefix(name) for name in inside))
        for name in set(names) - set(inside):
            if any(matches(pattern, name) for pattern in patterns):
                found = f"a filter for layers {part} would match '{name}', too"
                raise UserError(f"{where}: layer_groups", found, "1: this model has no groups")
        label = f"{part[0]}" if len(part) == 1 else f"{part[0]}-{part[-1]}"
        groups.append(Group(f"layer {label}", frozenset(inside), patterns))
    outside = frozenset(name for name in names if layer_of(name) is None)
    return [*groups, Group("other", outside, ("*",))] if outside else groups


def _prefix(name: str) -> str:
    """A tensor name up to its layer number: as a filter it matches that layer only."""
    mark = f".{layer_of(name)}."
    return name.partition(mark)[0] + mark
