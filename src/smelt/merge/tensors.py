"""Each tensor of the result: from which tensors, at which depth, with which values."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from smelt.checkpoint import layout
from smelt.checkpoint.reader import FLOATS
from smelt.checkpoint.writer import Entry
from smelt.core.errors import UserError
from smelt.merge.method import Method, merge_arrays
from smelt.merge.model import Model, check_float
from smelt.merge.parts import Module, Source, Span
from smelt.merge.values import Level, values_for
from smelt.merge.vocab.rows import RowMap

MERGED = tuple(FLOATS.values())
"""Types, as in headers, that are merged; others must be equal in all models and are copied."""
Place = tuple[str, str]
"""(model as the recipe names it, tensor in its files)."""


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the result."""

    entry: Entry
    base: Place | None
    experts: list[Place]
    values: dict[str, Any]
    """Keyword values of the method; a list has one for each expert."""
    position: float
    """Depth in its slice, 0 to 1."""
    copied: bool = False
    """Taken from the one model as it is: a part of the network that the recipe does not merge."""
    rows: Mapping[str, RowMap] | None = None
    """Per model, where its rows come from under a new vocabulary."""

    @property
    def places(self) -> list[Place]:
        """All sources: the experts, then the base if there is one."""
        return [*self.experts, *([self.base] if self.base else [])]


View = dict[str, str]
"""Tensor of the network -> tensor of one model's files."""


class Layers:
    """The tensors of one module of the models, by layer, under the names of the network."""

    def __init__(self, models: dict[str, Model], views: dict[str, View], module: str | None):
        self.models, self.module = models, module
        self._depth: Callable[[str], int | None] = (
            layout.layer_of if module is None else layout.tower_layer_of
        )
        self.views = {
            model: {
                name: own
                for name, own in view.items()
                if module is None or layout.in_module(name, module)
            }
            for model, view in views.items()
        }
        self._by_layer: dict[str, dict[int | None, list[str]]] = {}
        for model, view in self.views.items():
            by_layer: dict[int | None, list[str]] = defaultdict(list)
            for name in view:
                by_layer[self._depth(name)].append(name)
            self._by_layer[model] = by_layer

    def count(self, model: str) -> int:
        """Number of layers of a model. Raises UserError for an index that no network has."""
        last = max((one for one in self._by_layer[model] if one is not None), default=-1)
        if last >= len(self.views[model]):
            (name, *_) = self._by_layer[model][last]
            found = f"a tensor '{name}' among {len(self.views[model])} tensors"
            raise UserError(self.models[model].folder, found, "layers counted from 0")
        return last + 1

    def span(self, source: Source) -> Span:
        """The layers of a source. Raises UserError when the model has fewer."""
        count = self.count(source.model)
        if source.span is not None and source.span[1] > count:
            found = f"layer_range {list(source.span)} of a model with {count} layers"
            where = source.level.where.removesuffix(".parameters")
            raise UserError(f"{where}.layer_range", found, f"at most [0, {count}]")
        return source.span or (0, count)

    def at(self, model: str, layer: int | None) -> View:
        """Name in layer 0 -> name, of a layer's tensors; layer None: those outside the layers."""
        names = self._by_layer[model].get(layer, [])
        return {name if layer is None else layout.with_layer(name, 0): name for name in names}

    def matched(self, sources: list[Source], step: int | None) -> dict[str, list[str]]:
        """Name in layer 0 -> name in each source, at one depth. Raises UserError if sets differ."""
        tables = [
            self.at(one.model, None if step is None else self.span(one)[0] + step)
            for one in sources
        ]
        for source, table in zip(sources, tables, strict=True):
            if table.keys() == tables[0].keys():
                continue
            for have, lack in ((tables[0], table), (table, tables[0])):
                for key in have:
                    if key not in lack:
                        owner, other = (source, sources[0])[:: 1 if lack is table else -1]
                        raise UserError(
                            self.models[owner.model].folder,
                            f"no tensor '{have[key]}', which {other.model} has",
                            "models with the same tensors",
                        )
        return {key: [table[key] for table in tables] for key in tables[0]}


@dataclass(frozen=True)
class Planner:
    """What the tensors of all modules have in common.

    row_maps: for a tensor by token, (model names, base) -> RowMap by model; None when rows stay.
    """

    method: Method
    models: dict[str, Model]
    views: dict[str, View]
    out_dtype: str | None
    by_token: frozenset[str] = frozenset()
    row_maps: Callable[[tuple[str, ...], str | None], Mapping[str, RowMap]] | None = None

    def plan(self, module: Module) -> tuple[list[TensorPlan], list[tuple[Level, set[str]]]]:
        """The tensors of a module, and which of them each level of settings is about.

        What is outside the layers comes from the first slice (embeddings) or the last (the rest).
        Raises UserError for what does not fit.
        """
        layers = Layers(self.models, self.views, module.name)
        found: dict[str, TensorPlan] = {}
        seen_by: list[tuple[Level, set[str]]] = []
        offset = 0
        for number, part in enumerate(module.parts):
            sources = part.sources
            spans = [layers.span(one) for one in sources]
            length = spans[0][1] - spans[0][0]
            for one, span in zip(sources, spans, strict=True):
                if span[1] - span[0] != length:
                    raise UserError(
                        self.models[one.model].folder,
                        f"{span[1] - span[0]} layers",
                        f"{length}, as in {sources[0].model}",
                        "take slices with a layer_range of equal length, or smelt fuse",
                    )
            in_part: dict[str, list[str]] = {}
            for step in (None, *range(length)):
                for key, names in layers.matched(sources, step).items():
                    ends = 0 if layout.block_of(key) == "embedding" else len(module.parts) - 1
                    if step is None and number != ends:
                        in_part[key] = names  # a slice may repeat a filter that others are about
                        continue
                    name = key if step is None else layout.with_layer(key, offset + step)
                    places = [
                        (one.model, layers.views[one.model][tensor])
                        for one, tensor in zip(sources, names, strict=True)
                    ]
                    count = len(part.experts)
                    values = values_for(
                        self.method, part.common, [one.level for one in part.experts],
                        name, names[:count], position := _position(step, length),
                    )  # fmt: skip
                    base = places[-1] if part.base else None
                    found[name] = self.tensor(name, places[:count], base, values, position)
                    in_part[name] = names
            offset += length
            for index, source in enumerate(part.experts):
                seen_by.append((source.level, {names[index] for names in in_part.values()}))
            seen_by += [(level, set(in_part)) for level in part.common]
        return list(found.values()), seen_by

    def tensor(
        self, name: str, experts: list[Place], base: Place | None, values: dict[str, Any],
        position: float,
    ) -> TensorPlan:  # fmt: skip
        """One merged tensor, its sources checked. Raises UserError."""
        maps = None
        if self.row_maps is not None and name in self.by_token:
            among = tuple(
                dict.fromkeys(model for model, _ in [*experts, *([base] if base else [])])
            )
            maps = self.row_maps(among, base[0] if base else None)
        entry = self._entry(name, [*experts, *([base] if base else [])], base or experts[0], maps)
        return TensorPlan(entry, base, experts, values, position, rows=maps)

    def copy(self, name: str, place: Place) -> TensorPlan:
        """A tensor that is taken from one model as it is (its rows moved, if it goes by token)."""
        moves = self.row_maps is not None and name in self.by_token
        maps = self.row_maps((place[0],), None) if self.row_maps is not None and moves else None
        entry = self._entry(name, [place], place, maps)
        return TensorPlan(entry, None, [place], {}, 0.0, copied=True, rows=maps)

    def _entry(
        self, name: str, places: list[Place], leading: Place, maps: Mapping[str, RowMap] | None
    ) -> Entry:
        expected = self.models[leading[0]].spec(leading[1])
        for model, tensor in places:
            spec = self.models[model].spec(tensor)
            ours, theirs = expected.shape, spec.shape
            if maps is not None:  # numbers of rows may differ, rows may not
                ours, theirs = ours[1:], theirs[1:]
            if theirs != ours:
                by_token = layout.block_of(name) in ("embedding", "head")
                raise UserError(
                    self.models[model].folder,
                    f"tensor '{tensor}' has shape {list(spec.shape)}",
                    f"{list(expected.shape)}, as in {leading[0]}",
                    "tokenizer_source: union (or base) moves embedding rows"
                    if by_token and theirs[1:] == ours[1:]
                    else "models of other shapes or vocabularies: smelt fuse",
                )
            check_float(self.models[model], tensor)
            if (spec.dtype in MERGED) != (expected.dtype in MERGED):
                raise UserError(spec.file, f"tensor '{tensor}' is {spec.dtype}", expected.dtype)
        merged = expected.dtype in MERGED
        dtype = FLOATS[self.out_dtype] if self.out_dtype is not None and merged else expected.dtype
        shape = expected.shape
        if maps is not None:
            shape = (maps[leading[0]].size, *shape[1:])
        return Entry(name, shape, dtype)


def _position(step: int | None, length: int) -> float:
    """Depth of a layer in its slice as mergekit has it: a slice of one layer is at 1."""
    if step is None:
        return 0.0
    return step / (length - 1) if length > 1 else 1.0


def try_values(method: Method, items: list[TensorPlan]) -> None:
    """Run the method on one number for each set of values: what it refuses, it refuses now."""
    tried: set[str] = set()
    for item in items:
        if not item.copied and (key := repr(item.values)) not in tried:
            tried.add(key)
            # No two alike and none parallel, as with real models.
            random = np.random.default_rng(0).normal(size=(len(item.experts) + 1, 2, 4))
            base, *experts = random.astype(np.float32)
            merge_arrays(method, base if item.base else None, experts, item.values)
