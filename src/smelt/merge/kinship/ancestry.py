"""Which models share a base, and which of them looks like it, told from their weights alone.

Only matrices inside the layers are asked. Norm weights are near 1 in every model, so their cosine
is near 1 between strangers too; embeddings are often frozen, or copied from another model.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.checkpoint import layout
from smelt.checkpoint.reader import FLOATS
from smelt.merge.kinship import diagnose_kernels
from smelt.merge.kinship.likely_base import Confidence, find_base
from smelt.merge.kinship.products import cosines_of, weight_products
from smelt.merge.model import Model
from smelt.merge.sources import Files, rows_and_columns

RELATED = 0.3
"""Median cosine of the weights from which on two models count as relatives. Measured: independent
runs on the same data stay below 0.04 in size, fine-tunes and merges of one base above 0.97."""
DISTANT = 0.1
SURE = 0.8
_RUNS = 4  # pieces of a tensor that a sample takes


@dataclass(frozen=True)
class Family:
    """Models that share a base. base: the one that looks like it; evidence: why, in sentences."""

    models: list[str]
    base: str | None
    confidence: Confidence
    evidence: list[str]


@dataclass(frozen=True)
class Ancestry:
    """Families, largest first, and the median cosine over matrices of all pairs of models."""

    families: list[Family]
    names: list[str]
    cosines: list[list[float | None]]
    """None where models have other shapes, or no matrices."""
    matrices: int
    """Matrices compared, at most."""
    notes: list[str] = field(default_factory=list)

    def family_of(self, name: str) -> Family:
        """The family of a model."""
        return next(family for family in self.families if name in family.models)


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor counts as evidence: a matrix of attention or MLP in a layer."""
    return len(shape) >= 2 and layout.block_of(name) in ("attention", "mlp")


def matrices_of(model: Model) -> dict[str, tuple[int, ...]]:
    """Name and shape of the tensors that count as evidence, by name within the language model."""
    prefix = layout.text_prefix(model.names())
    specs = {name: model.spec(name) for name in model.names()}
    return {
        name.removeprefix(prefix): spec.shape
        for name, spec in specs.items()
        if is_matrix(name, spec.shape) and spec.dtype in FLOATS.values() and 0 not in spec.shape
    }


def ancestry(models: dict[str, Model], *, tensors: int = 16, elements: int = 1 << 16) -> Ancestry:
    """Families of models from a sample of their weights, always the same one.

    tensors: matrices read of each model, spread over depth; elements: of each, in four runs of
    rows. By default at most 2 MB of a bfloat16 model. Models of other shapes are no relatives.
    """
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, model in models.items():
        alike.setdefault(tuple(matrices_of(model).items()), []).append(name)
    opened = Files()
    try:
        parts = [
            judge(names, _sample(names, models, dict(shapes), tensors, elements, opened))
            for shapes, names in alike.items()
        ]
    finally:
        opened.close()
    return joined(list(models), parts)


def joined(names: list[str], parts: Iterable[Ancestry]) -> Ancestry:
    """One ancestry from those of groups of models that cannot be related."""
    place = {name: index for index, name in enumerate(names)}
    cosines: list[list[float | None]] = [[None] * len(names) for _ in names]
    families, notes, matrices = [], [], 0
    for part in parts:
        families += part.families
        notes += part.notes
        matrices = max(matrices, part.matrices)
        for one, row in zip(part.names, part.cosines, strict=True):
            for other, value in zip(part.names, row, strict=True):
                cosines[place[one]][place[other]] = value
    families.sort(key=lambda family: (-len(family.models), place[family.models[0]]))
    return Ancestry(families, names, cosines, matrices, notes)


def _sample(
    names: list[str],
    models: dict[str, Model],
    shapes: dict[str, tuple[int, ...]],
    tensors: int,
    elements: int,
    opened: Files,
) -> dict[str, NDArray[Any]]:
    """Moments of rows of some matrices, by name; matrices with NaN or infinity are left out."""
    ordered = sorted(shapes, key=lambda name: (layout.layer_of(name) or 0, name))
    count = min(tensors, len(ordered))
    chosen = [ordered[(2 * place + 1) * len(ordered) // (2 * count)] for place in range(count)]
    prefixes = {name: layout.text_prefix(models[name].names()) for name in names}
    found = {}
    for name in chosen:
        rows, columns = rows_and_columns(shapes[name])
        size = max(1, min(rows, elements // columns) // _RUNS)
        starts = sorted({place * (rows - size) // (_RUNS - 1) for place in range(_RUNS)})
        values = np.empty((len(names), len(starts), size, columns))
        bad = 0
        for index, model in enumerate(names):
            source = models[model].source(prefixes[model] + name, opened)
            for run, start in enumerate(starts):
                bad += source.rows(start, values[index, run])
        if not bad:
            flat = values.reshape(len(names), -1)
            found[name] = np.zeros((len(names), len(names)))
            diagnose_kernels.moments(flat[0], flat[1:], found[name])
    return found


def judge(names: list[str], moments: dict[str, NDArray[Any]]) -> Ancestry:
    """Families of models of one shape, from the moments of each matrix (see weight_products)."""
    kept, scaled = [], np.zeros((len(names), len(names)))
    for name in sorted(moments):
        products = weight_products(moments[name])
        if np.all(np.diag(products) > 0):
            kept.append(cosines_of(products))
            # Every matrix counts the same, whatever its size and scale.
            scaled += moments[name] / np.mean(np.diag(products))
    if not kept:
        alone = [Family([name], None, "none", ["no float matrix to compare"]) for name in names]
        return Ancestry(alone, names, [[None] * len(names) for _ in names], 0)
    median = np.median(np.stack(kept), axis=0)
    families = [
        _family(group, names, median, np.stack(kept), scaled)
        for group in _groups(median >= RELATED)
    ]
    notes = [
        f"{names[a]} and {names[b]}: cosine {median[a, b]:.2f}, perhaps distant relatives"
        for a in range(len(names))
        for b in range(a)
        if DISTANT <= abs(median[a, b]) < RELATED
    ]
    cosines: list[list[float | None]] = [[float(value) for value in row] for row in median]
    return joined(names, [Ancestry(families, names, cosines, len(kept), notes)])


def _groups(linked: NDArray[Any]) -> list[list[int]]:
    """Connected components of a symmetric table of links."""
    left, groups = list(range(len(linked))), []
    while left:
        group, todo = [], [left.pop(0)]
        while todo:
            one = todo.pop()
            group.append(one)
            todo += [other for other in left if linked[one, other]]
            left = [other for other in left if not linked[one, other]]
        groups.append(sorted(group))
    return groups


def _family(
    group: list[int],
    names: list[str],
    median: NDArray[Any],
    each: NDArray[Any],
    scaled: NDArray[Any],
) -> Family:
    members = [names[place] for place in group]
    if len(group) == 1:
        others = [abs(median[group[0], place]) for place in range(len(names)) if place != group[0]]
        text = "no other model has its shapes"
        if others:
            text = f"cosine with every other model of its shapes at most {max(others):.2f} in size"
        return Family(members, None, "none", [text])
    pairs = [(a, b) for a in group for b in group if a < b]
    values = np.array([each[:, a, b] for a, b in pairs])
    medians = np.median(values, axis=1)
    evidence = [
        f"weights share a base: cosine {medians.min():.4f} to {medians.max():.4f} between pairs"
        f" (median over {each.shape[0]} matrices; lowest of any matrix {values.min():.4f});"
        " independent training gives about 0"
    ]
    if medians.min() < SURE:
        evidence.append("below 0.8 is far for fine-tunes: long further training, or a partial copy")
    base, confidence, more = find_base(group, names, scaled)
    return Family(members, base, confidence, evidence + more)
