"""Each tensor of the result: from which tensors, at which depth, with which values."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from smelt.checkpoint import layout
from smelt.checkpoint.reader import FLOATS, Checkpoint
from smelt.checkpoint.writer import Entry
from smelt.core.errors import UserError
from smelt.merge.method import Method, merge_arrays
from smelt.merge.parts import Part, Source, Span
from smelt.merge.values import Level, check_filters, values_for

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


class Layers:
    """The tensors of the models, by layer, under the names of the network (heads untied alike)."""

    def __init__(self, models: dict[str, Checkpoint], views: dict[str, dict[str, str]]) -> None:
        self.models, self.views = models, views
        self._by_layer: dict[str, dict[int | None, list[str]]] = {}
        for model, view in views.items():
            by_layer: dict[int | None, list[str]] = defaultdict(list)
            for name in view:
                by_layer[layout.layer_of(name)].append(name)
            self._by_layer[model] = by_layer

    def count(self, model: str) -> int:
        """Number of layers of a model."""
        return layout.num_layers(self.views[model])

    def span(self, source: Source) -> Span:
        """The layers of a source. Raises UserError when the model has fewer."""
        count = self.count(source.model)
        if source.span is not None and source.span[1] > count:
            found = f"layer_range {list(source.span)} of a model with {count} layers"
            raise UserError(source.level.where, found, f"at most [0, {count}]")
        return source.span or (0, count)

    def at(self, model: str, layer: int | None) -> dict[str, str]:
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


def plan_tensors(
    method: Method, parts: list[Part], layers: Layers, out_dtype: str | None
) -> list[TensorPlan]:
    """All tensors of the result, sorted by name. Raises UserError for what does not fit.

    What is outside the layers comes from the first slice (embeddings) or the last (the rest).
    """
    found: dict[str, TensorPlan] = {}
    seen_by: list[tuple[Level, set[str]]] = []
    offset = 0
    for number, part in enumerate(parts):
        sources = [*part.experts, *([part.base] if part.base else [])]
        spans = [layers.span(one) for one in sources]
        length = spans[0][1] - spans[0][0]
        for one, span in zip(sources, spans, strict=True):
            if span[1] - span[0] != length:
                raise UserError(
                    layers.models[one.model].folder,
                    f"{span[1] - span[0]} layers",
                    f"{length}, as in {sources[0].model}",
                    "take slices with a layer_range of equal length, or smelt fuse",
                )
        in_part: dict[str, list[str]] = {}
        for step in (None, *range(length)):
            for key, names in layers.matched(sources, step).items():
                ends = 0 if layout.block_of(key) == "embedding" else len(parts) - 1
                if step is None and number != ends:
                    continue
                name = key if step is None else layout.with_layer(key, offset + step)
                found[name] = _tensor(method, part, layers, name, names, out_dtype,
                                      _position(step, length))  # fmt: skip
                in_part[name] = names
        offset += length
        for index, source in enumerate(part.experts):
            seen_by.append((source.level, {names[index] for names in in_part.values()}))
        seen_by += [(level, set(in_part)) for level in part.common[:-1]]
    seen_by.append((parts[0].common[-1], set(found)))
    check_filters(seen_by)
    _try_values(method, list(found.values()))
    return [found[name] for name in sorted(found)]


def _position(step: int | None, length: int) -> float:
    """Depth of a layer in its slice as mergekit has it: a slice of one layer is at 1."""
    if step is None:
        return 0.0
    return step / (length - 1) if length > 1 else 1.0


def _tensor(
    method: Method,
    part: Part,
    layers: Layers,
    name: str,
    names: list[str],
    out_dtype: str | None,
    position: float,
) -> TensorPlan:
    sources = [*part.experts, *([part.base] if part.base else [])]
    places = [
        (one.model, layers.views[one.model][tensor])
        for one, tensor in zip(sources, names, strict=True)
    ]
    count = len(part.experts)
    own = [one.level for one in part.experts]
    values = values_for(method, part.common, own, name, names[:count], position)
    leading = places[-1] if part.base else places[0]
    entry = _entry(name, places, leading, layers.models, out_dtype)
    return TensorPlan(entry, leading if part.base else None, places[:count], values, position)


def _entry(
    name: str,
    places: list[Place],
    leading: Place,
    models: dict[str, Checkpoint],
    out_dtype: str | None,
) -> Entry:
    expected = models[leading[0]].spec(leading[1])
    for model, tensor in places:
        spec = models[model].spec(tensor)
        if spec.shape != expected.shape:
            raise UserError(
                models[model].folder,
                f"tensor '{tensor}' has shape {list(spec.shape)}",
                f"{list(expected.shape)}, as in {leading[0]}",
                "models of other shapes or vocabularies: smelt fuse",
            )
        if spec.dtype.startswith("F8"):
            raise UserError(spec.file, f"tensor '{tensor}' is quantised ({spec.dtype})", "no F8")
        if (spec.dtype in MERGED) != (expected.dtype in MERGED):
            raise UserError(spec.file, f"tensor '{tensor}' is {spec.dtype}", expected.dtype)
    merged = expected.dtype in MERGED
    dtype = FLOATS[out_dtype] if out_dtype is not None and merged else expected.dtype
    return Entry(name, expected.shape, dtype)


def _try_values(method: Method, items: list[TensorPlan]) -> None:
    """Run the method on one number for each set of values: what it refuses, it refuses now."""
    tried: set[str] = set()
    for item in items:
        if (key := repr(item.values)) not in tried:
            tried.add(key)
            one = np.ones((1, 1), dtype=np.float32)
            merge_arrays(method, one * 0, [one] * len(item.experts), item.values)
