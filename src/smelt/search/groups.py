"""Which tensors share a value: groups of layers, their components, and filters that name them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from smelt.checkpoint.layout import block_of, layer_of, with_layer
from smelt.core.errors import UserError
from smelt.merge.parameters import matches

COMPONENTS = ("attention", "mlp", "other")


@dataclass(frozen=True)
class Group:
    """Tensors that share one number of a genome; depth: the middle of its layers, None for what
    has no place among them; component: of COMPONENTS, None when they are not told apart."""

    label: str
    tensors: frozenset[str]
    depth: float | None = None
    component: str | None = None


@cache
def component_of(tensor: str) -> str:
    """attention, mlp, or other: norms, embeddings, head.

    >>> [component_of(f"model.layers.0.{part}.weight") for part in ("mlp.up_proj", "self_attn.o")]
    ['mlp', 'attention']
    """
    block = block_of(tensor)
    return block if block in COMPONENTS else "other"


def group_tensors(
    names: Iterable[str], layer_groups: int | str, where: str, *, components: bool = False
) -> list[Group]:
    """Layers cut into consecutive groups of near-equal size; what is outside is a last group.

    components: each group of layers is cut once more, into attention, mlp and the rest. Raises
    UserError for more groups than layers.
    """
    listed = sorted(names)
    if layer_groups == 1:
        return _cut("all", listed, None, components)
    layers = sorted({layer for name in listed if (layer := layer_of(name)) is not None})
    count = len(layers) if layer_groups == "all" else int(layer_groups)
    if count > len(layers):
        raise UserError(f"{where}.layer_groups", f"found {count}", f"at most {len(layers)}, or all")
    groups = []
    for index in range(count):
        part = layers[index * len(layers) // count : (index + 1) * len(layers) // count]
        inside = [name for name in listed if layer_of(name) in part]
        label = f"{part[0]}" if len(part) == 1 else f"{part[0]}-{part[-1]}"
        groups += _cut(f"layer {label}", inside, sum(part) / len(part), components)
    outside = frozenset(name for name in listed if layer_of(name) is None)
    return [*groups, Group("other", outside)] if outside else groups


def _cut(label: str, names: list[str], depth: float | None, components: bool) -> list[Group]:
    if not components:
        return [Group(label, frozenset(names), depth)]
    cut = {part: frozenset(n for n in names if component_of(n) == part) for part in COMPONENTS}
    return [
        Group(f"{label} {part}", tensors, depth, part) for part, tensors in cut.items() if tensors
    ]


@dataclass(frozen=True)
class Mix:
    """Where the number of a tensor lies in a genome: in its group, or for values that run smoothly
    over depth at a share of the way from one group to another."""

    group: int
    left: int
    right: int
    share: float = 0.0


def mixes(groups: list[Group], *, smooth: bool) -> dict[str, Mix]:
    """The mix of every tensor. Before the first group's middle and after the last's, values stay.

    >>> two = [Group("0-1", frozenset({"layers.1."}), 0.5), Group("2-3", frozenset(), 2.5)]
    >>> mixes(two, smooth=True)["layers.1."]
    Mix(group=0, left=0, right=1, share=0.25)
    """
    found = {}
    for index, group in enumerate(groups):
        chain = [
            (other.depth, place)
            for place, other in enumerate(groups)
            if other.depth is not None and other.component == group.component
        ]
        for tensor in group.tensors:
            layer = layer_of(tensor)
            found[tensor] = Mix(index, index, index)
            if not smooth or group.depth is None or layer is None:
                continue
            below = max((one for one in chain if one[0] <= layer), default=chain[0])
            above = min((one for one in chain if one[0] >= layer), default=chain[-1])
            if below[0] < layer < above[0]:
                share = (layer - below[0]) / (above[0] - below[0])
                found[tensor] = Mix(index, below[1], above[1], share)
            else:  # on a middle, or beyond the last
                end = (below if layer >= below[0] else above)[1]
                found[tensor] = Mix(index, end, end)
    return found


def filters(cells: Mapping[str, Mix]) -> list[tuple[str, Mix]]:
    """Filters in the order of a recipe, by which every tensor gets the mix that it has here.

    As few as the names allow: components, then layers, then the rest; a tensor that another's
    filter would catch is named in full, before the others.
    """
    general = _general_filters(cells)
    by_name: set[str] = set()
    while True:
        # A name comes after all that it is a part of, so the last resort, every name, is exact.
        full = [(name, cells[name]) for name in sorted(by_name, key=lambda one: (-len(one), one))]
        rules = [*full, *general]
        first = {
            name: next(place for place, (text, _) in enumerate(rules) if matches(text, name))
            for name in cells
        }
        wrong = {name for name, place in first.items() if rules[place][1] != cells[name]}
        if not wrong:
            used = set(first.values())  # the planner warns of filters that no tensor gets to
            return [rule for place, rule in enumerate(rules) if place in used]
        by_name |= wrong


def _general_filters(cells: Mapping[str, Mix]) -> list[tuple[str, Mix]]:
    """One filter for the tensors of a layer or of its components; every name has a match."""
    in_layer, in_component = defaultdict(set), defaultdict(set)
    for name, mix in cells.items():
        in_layer[layer_of(name)].add(mix)
        in_component[component_of(name)].add(mix)
    by_component = any(len(found) > 1 for layer, found in in_layer.items() if layer is not None)
    by_layer = any(len(found) > 1 for found in in_component.values())
    ranked: list[dict[str, Mix]] = [{}, {}, {}]
    for name in sorted(cells, key=lambda one: (layer_of(one) or 0, one)):
        layer, rank, text = layer_of(name), 2, "*"
        if layer is not None:
            far = with_layer(name, 10**9)
            prefix = f"{far[: far.index(str(10**9))]}{layer}."
            part = name.removeprefix(prefix).partition(".")[0]
            if by_component and component_of(name) != "other":
                rank, text = 0, f"{prefix}{part}." if by_layer else f".{part}."
            elif by_layer:
                rank, text = 1, prefix
        ranked[rank].setdefault(text, cells[name])
    return [rule for rules in ranked for rule in rules.items()]
