"""How models relate, layer by layer: cosines, norms, signs and overlap, in one streamed pass."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.checkpoint import layout
from smelt.core import progress
from smelt.merge.blocks import Blocks
from smelt.merge.kinship import diagnose_kernels
from smelt.merge.kinship.ancestry import Ancestry, ancestry, is_matrix, joined, judge
from smelt.merge.kinship.differences import Fit, facts, fit
from smelt.merge.kinship.products import cosines_of, difference_products, weight_products
from smelt.merge.model import Model
from smelt.merge.sources import Files
from smelt.merge.threads import num_threads, worker_threads

DEPTHS = ("early", "middle", "late")
_ORDER = ("embedding", "attention", "mlp", "norm", "other", "head")
Cell = dict[str, Any]


@dataclass
class Sums:
    """What a part of a network adds up to; parts add. Models: the base first if there is one."""

    tensors: int
    elements: int
    moments: NDArray[Any]
    """Inner products of [model 0, model 1 - model 0, ...]: (models, models)."""
    pairs: NDArray[Any]
    """With a base: elements that both experts changed; the diagonal: one. Else: that differ."""
    same: NDArray[Any]
    """With a base: those of them changed in the same direction."""

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.tensors + other.tensors,
            self.elements + other.elements,
            self.moments + other.moments,
            self.pairs + other.pairs,
            self.same + other.same,
        )


def inspect(
    models: dict[str, Model], base: str | None = None, *, threads: int | None = None
) -> dict[str, Any]:
    """The record of a comparison: plain JSON data, the same for any number of threads.

    models: by the names to show, the base among them if there is one. With a base the numbers are
    about task vectors (expert - base), without one about the weights. See docs/inspect.md.
    """
    found = fit(models, base)
    experts = [name for name in found.compared if name != base]
    # Without a base, in the order given; the reference has no role in the numbers.
    order = [*([base] if base else []), *(name for name in models if name in experts)]
    sums: dict[str, Sums] = {}
    if len(order) >= 2:
        sums = _measure_all(models, found, order, base is not None, threads or num_threads())
    measured = {name: one for name, one in sums.items() if one.elements}
    related = _ancestry(models, found, order, measured)
    count = layout.num_layers(found.names)
    by_layer: dict[tuple[Any, ...], Sums] = {}
    by_depth: dict[tuple[Any, ...], Sums] = {}
    for name, one in measured.items():
        layer, block = layout.layer_of(name), layout.block_of(name)
        _add(by_layer, (layer, block), one)
        _add(by_depth, (None if layer is None else depth_of(layer, count), block), one)
        _add(by_depth, ("all", "all"), one)
    total = by_depth.pop(("all", "all"), None)
    with_base = base is not None
    return {
        "models": list(models),
        "base": base,
        "compared": [name for name in order if name != base],
        "pairs": [list(pair) for pair in _pairs([name for name in order if name != base])],
        "num_layers": count,
        "facts": {name: facts(model) for name, model in models.items()},
        "reference": found.reference,
        "refused": found.refused,
        "differences": found.differences + (base_lines(related, base, order) if base else []),
        "left_out": found.left_out,
        "ancestry": asdict(related),
        "layers": [
            {"layer": layer, "block": block} | numbers(by_layer[layer, block], with_base)
            for layer, block in sorted(by_layer, key=_place)
        ],
        "depths": [
            {"depth": depth, "block": block} | numbers(by_depth[depth, block], with_base)
            for depth, block in sorted(by_depth, key=_place)
        ],
        "total": numbers(total, with_base) if total else None,
    }


def depth_of(layer: int, count: int) -> str:
    """The third of the layers that one lies in.

    >>> [depth_of(layer, 4) for layer in range(4)], depth_of(0, 1)
    (['early', 'middle', 'middle', 'late'], 'middle')
    """
    return DEPTHS[(2 * layer + 1) * 3 // (2 * count)]


def numbers(sums: Sums, with_base: bool) -> Cell:
    """The measures of a part. None: not defined (a model that changed nothing has no direction).

    Per model, with a base: `moved`, the norm of the task vector over that of the base, and
    `changed`, the share of elements that differ from the base; without: `norm`. Per pair (a, b)
    of models: `cosine`, `norm_ratio` |a| / |b|; with a base `same_sign` (share of the elements that
    both changed) and `overlap` (elements both changed, as a share of those that one changed);
    without: `differing`, the share of elements that differ, and `distance`, |a - b| over the mean
    norm.
    """
    products = weight_products(sums.moments)
    weights = np.sqrt(np.clip(np.diag(products), 0.0, None))
    vectors = difference_products(sums.moments, 0)[1:, 1:] if with_base else products
    norms = np.sqrt(np.clip(np.diag(vectors), 0.0, None))
    cosines = cosines_of(vectors)
    pairs = list(_pairs(list(range(len(norms)))))
    cell: Cell = {
        "tensors": sums.tensors,
        "elements": sums.elements,
        "cosine": [_number(cosines[pair]) for pair in pairs],
        "norm_ratio": [_share(norms[a], norms[b]) for a, b in pairs],
    }
    if with_base:
        changed = np.diag(sums.pairs)
        either = {(a, b): changed[a] + changed[b] - sums.pairs[a, b] for a, b in pairs}
        return cell | {
            "moved": [_share(norm, weights[0]) for norm in norms],
            "changed": [_share(one, sums.elements) for one in changed],
            "same_sign": [_share(sums.same[pair], sums.pairs[pair]) for pair in pairs],
            "overlap": [_share(sums.pairs[pair], either[pair]) for pair in pairs],
        }
    gaps = {(a, b): difference_products(sums.moments, a)[b, b] for a, b in pairs}
    return cell | {
        "norm": [float(norm) for norm in weights],
        "distance": [
            _share(np.sqrt(max(0.0, gaps[a, b])), (norms[a] + norms[b]) / 2) for a, b in pairs
        ],
        "differing": [_share(sums.pairs[pair], sums.elements) for pair in pairs],
    }


def base_lines(related: Ancestry, base: str, order: list[str]) -> list[str]:
    """Warnings when the base that was named does not fit what the weights say."""
    lines = []
    family = related.family_of(base)
    for name in order:
        if name not in family.models:
            lines.append(f"{name} does not look tuned from the base {base}: too far from it")
    if family.base not in (None, base) and family.confidence in ("high", "medium"):
        lines.append(f"{family.base} looks more like the base than {base} does")
    return lines


def _ancestry(
    models: dict[str, Model], found: Fit, order: list[str], measured: dict[str, Sums]
) -> Ancestry:
    """Families by the whole of what was read; models that were not compared by a sample."""
    left = {name: model for name, model in models.items() if name not in order}
    if len(order) < 2:
        return ancestry(models)
    matrices = {
        name: one.moments
        for name, one in measured.items()
        if is_matrix(name, models[order[0]].spec(found.names[name][order[0]]).shape)
    }
    return joined(list(models), [judge(order, matrices), *([ancestry(left)] if left else [])])


def _measure_all(
    models: dict[str, Model], found: Fit, order: list[str], with_base: bool, threads: int
) -> dict[str, Sums]:
    """Sums of every tensor; one that holds NaN or infinity goes to `found.left_out`."""
    opened = Files()

    def work(name: str) -> Sums | str:
        own = found.names[name]
        for spec in (models[one].spec(own[one]) for one in order):
            opened.announce(spec.file, spec.start, spec.num_bytes)
        sources = [models[one].source(own[one], opened) for one in order]
        first = sources.pop(0) if with_base else None
        tensor = Blocks(name, first, list(sources), list(order[with_base:]))
        sums = measure(tensor)
        bad = {place: count for place, count in tensor.bad.items() if count}
        if bad:
            place, count = next(iter(sorted(bad.items())))
            return f"{count} values in {order[place + with_base]} are NaN or infinite"
        return sums

    sums: dict[str, Sums] = {}
    names = list(found.names)
    try:
        with worker_threads(threads, "inspect") as pool:
            steps = progress.track(pool.map(work, names), "inspect", len(names))
            for name, result in zip(names, steps, strict=True):
                if isinstance(result, str):
                    found.left_out[name] = result
                else:
                    sums[name] = result
    finally:
        opened.close()
    return sums


def measure(tensor: Blocks) -> Sums:
    """The sums of one tensor, read once."""
    with_base = tensor.base is not None
    count = len(tensor.experts)
    size = count + with_base
    table = np.zeros((count, count), dtype=np.int64)
    sums = Sums(1, 0, np.zeros((size, size)), table, table.copy())
    for block in tensor:
        experts = block.experts.reshape(count, -1)
        sums.elements += experts.shape[1]
        if block.base is not None:
            base = block.base.reshape(-1)
            diagnose_kernels.moments(base, experts, sums.moments)
            diagnose_kernels.signs(base, experts, sums.pairs, sums.same)
        else:
            diagnose_kernels.moments(experts[0], experts[1:], sums.moments)
            diagnose_kernels.unequal(experts, sums.pairs)
    return sums


def _add(table: dict[tuple[Any, ...], Sums], key: tuple[Any, ...], one: Sums) -> None:
    table[key] = table[key] + one if key in table else one


def _place(key: tuple[Any, Any]) -> tuple[float, int]:
    """Embedding, then the layers from first to last, then the final norm and the head."""
    depth, block = key
    if depth is None:
        return (-1.0 if block == "embedding" else float("inf")), _ORDER.index(block)
    return float(DEPTHS.index(depth) if depth in DEPTHS else depth), _ORDER.index(block)


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return [(a, b) for place, a in enumerate(items) for b in items[place + 1 :]]


def _share(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
