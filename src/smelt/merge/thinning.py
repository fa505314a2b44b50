"""Which elements of a task vector survive: by magnitude, by chance, or by both.

What the methods of the TIES, DARE, DELLA and Breadcrumbs family share. A density of 1 (or more)
leaves a task vector as it is, a density of 0 leaves nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.core.errors import UserError
from smelt.merge import drawing, ops
from smelt.merge.blocks import Block, Blocks, Random
from smelt.merge.selection import kth_largest

INFINITE = float("inf")
NO_MASS = 1e-7
"""mergekit's: a task vector whose magnitudes sum to less is not rescaled."""


@dataclass(frozen=True)
class Bands:
    """Per expert: magnitudes from `low` to `high` are kept, and multiplied by `factors`."""

    low: list[float]
    high: list[float]
    factors: list[float]

    def within(self, deltas: ops.Array) -> ops.Array:
        """The task vectors after selection."""
        return ops.keep_between(deltas, self.low, self.high, self.factors)


def largest(tensor: Blocks, density: Sequence[float], *, rescale: bool = False) -> Bands:
    """TIES: the `density` share of largest magnitude, k = max(1, int(density * n)) elements.

    Every element that equals the k-th is kept: bf16 task vectors have many equal magnitudes, and
    which of them survived would otherwise be chance.
    """
    size = math.prod(tensor.shape)
    low = [0.0 if share >= 1 else INFINITE for share in density]
    wanted = {place: [max(1, int(share * size))] for place, share in _partial(density)}
    for place, (threshold,) in _magnitudes(tensor, wanted).items():
        low[place] = threshold
    bands = Bands(low, [INFINITE] * len(low), [1.0] * len(low))
    return _with_factors(tensor, bands, density) if rescale else bands


def middle(
    tensor: Blocks, density: Sequence[float], gamma: Sequence[float], *, rescale: bool = False
) -> Bands:
    """Breadcrumbs: without the `gamma` share of largest magnitude, then the largest, `density`.

    Elements that equal the smallest or the largest that is kept are kept too.
    """
    size = math.prod(tensor.shape)
    low = [0.0 if share >= 1 else INFINITE for share in density]
    high = [INFINITE] * len(low)
    wanted = {}
    for place, share in _partial(density):
        target, top = int(share * size), int(gamma[place] * size)
        bottom = max(0, size - target - top)
        if target > 0:
            wanted[place] = [size - bottom, size - bottom - target + 1]
    for place, ends in _magnitudes(tensor, wanted).items():
        low[place], high[place] = ends
    bands = Bands(low, high, [1.0] * len(low))
    return _with_factors(tensor, bands, density) if rescale else bands


def _partial(density: Sequence[float]) -> list[tuple[int, float]]:
    return [(place, share) for place, share in enumerate(density) if 0 < share < 1]


def _magnitudes(tensor: Blocks, wanted: dict[int, list[int]]) -> dict[int, list[float]]:
    """Expert -> its k-th largest magnitudes."""
    if not wanted:
        return {}
    places = list(wanted)
    every = len(places) == len(tensor.experts)

    def deltas(block: Block) -> ops.Array:
        return ops.deltas_of(block.base, block.experts if every else block.experts[places])

    found = kth_largest(tensor, deltas, [wanted[place] for place in places])
    return dict(zip(places, found, strict=True))


def _with_factors(tensor: Blocks, bands: Bands, density: Sequence[float]) -> Bands:
    factors = l1_factors(
        tensor, density, lambda block: bands.within(ops.deltas_of(block.base, block.experts))
    )
    return Bands(bands.low, bands.high, factors)


def l1_factors(
    tensor: Blocks, density: Sequence[float], thinned: Callable[[Block], ops.Array]
) -> list[float]:
    """mergekit's rescaling: what gives each thinned task vector its sum of magnitudes back."""
    before, after = np.zeros(len(tensor.experts)), np.zeros(len(tensor.experts))
    for block in tensor:
        before += ops.absolute_sums(ops.deltas_of(block.base, block.experts))
        after += ops.absolute_sums(thinned(block))
    return [
        float(was / now) if share < 1 and was >= NO_MASS and now >= NO_MASS else 1.0
        for share, was, now in zip(density, before, after, strict=True)
    ]


def drop(
    deltas: ops.Array, random: Random, density: Sequence[float], factors: Sequence[float]
) -> ops.Array:
    """DARE: keep each element with probability `density` and multiply it by its expert's factor."""
    out = _room(deltas)
    for place, (share, factor) in enumerate(zip(density, factors, strict=True)):
        # Random numbers are multiples of 2^-24: so many of them are below the density.
        bound = math.ceil(share * 2**24)
        if share >= 1 or bound <= 0:
            out[place] = deltas[place] if share >= 1 else 0
        elif bound >= 1 << 24:
            out[place] = deltas[place] * factor
        elif ops.on_cpu(deltas):
            flat, result = np.ascontiguousarray(deltas[place]).reshape(-1), out[place].reshape(-1)
            key = np.uint64(random.keys[place])
            drawing.draw(flat, key, random.start, np.uint32(bound << 8), float(factor), result)
        else:
            kept = random.uniform(place) * 2**24 < bound
            out[place] = deltas[place].double() * factor * kept
    return out


def _room(deltas: ops.Array) -> ops.Array:
    """An array of this shape and type, not filled; every part of it is contiguous."""
    if ops.on_cpu(deltas):
        return np.empty(deltas.shape, dtype=deltas.dtype)
    return deltas.new_empty(deltas.shape)


def drop_factors(
    tensor: Blocks, density: Sequence[float], *, rescale: bool, l1: bool
) -> list[float]:
    """DARE's factors: 1/density, or (`l1`) what the sums of magnitudes of the tensor ask for."""
    if rescale and l1 and _partial(density):
        ones = [1.0] * len(density)

        def thinned(block: Block) -> ops.Array:
            return drop(ops.deltas_of(block.base, block.experts), block.random, density, ones)

        return l1_factors(tensor, density, thinned)
    return [1 / share if rescale and 0 < share < 1 else 1.0 for share in density]


@dataclass(frozen=True)
class Kept:
    """What a first pass of DELLA found: factors, and by a block's first element the bits kept."""

    factors: list[float]
    bits: dict[int, NDArray[Any]]

    def within(self, deltas: ops.Array, start: int) -> ops.Array:
        """The surviving elements of the block that starts there, scaled."""
        size = math.prod(deltas.shape)
        kept = np.unpackbits(self.bits[start], count=size).reshape(tuple(deltas.shape))
        factors = ops.to_like(np.asarray(self.factors).reshape(-1, 1, 1), deltas)
        return ops.like(deltas * factors * ops.to_like(kept, deltas), deltas)


def check_chances(density: Sequence[float], epsilon: Sequence[float]) -> None:
    """Refuse probabilities outside 0 to 1. Raises UserError."""
    for (_, share), width in ((one, epsilon[one[0]]) for one in _partial(density)):
        if share - width <= 0 or share + width >= 1:
            raise UserError(
                "density and epsilon", f"density {share:g} with epsilon {width:g}",
                "density - epsilon above 0 and density + epsilon below 1 (or density 0 or 1)",
            )  # fmt: skip


def drop_by_rank(
    deltas: ops.Array,
    random: Random,
    density: Sequence[float],
    epsilon: Sequence[float],
    *,
    rescale: bool,
) -> ops.Array:
    """DELLA: keep each element by a probability linear in the rank of its magnitude in its row,
    from density - epsilon to density + epsilon. rescale: divide it by that probability."""
    out = _room(deltas)
    for place, (share, width) in enumerate(zip(density, epsilon, strict=True)):
        if share >= 1 or share <= 0:
            out[place] = deltas[place] if share >= 1 else 0
            continue
        low, high = share - width, share + width
        if ops.on_cpu(deltas):
            _draw_ranked(deltas[place], random, place, low, high, rescale, out[place])
        else:
            out[place] = _ranked(deltas[place], random, place, low, high, rescale)
    return out


def _draw_ranked(
    delta: NDArray[Any], random: Random, place: int, low: float, high: float, own: bool,
    out: NDArray[Any],
) -> None:  # fmt: skip
    wide = delta.dtype == np.float64
    word: Any = np.uint64 if wide else np.uint32
    body = word((1 << (63 if wide else 31)) - 1)
    # Buckets of a power of two: as many as columns, over 16 halvings of the magnitude.
    finer = min(8, max(3, math.ceil(math.log2(max(delta.shape[1], 16) / 16))))
    shift, key = word((52 if wide else 23) - finer), np.uint64(random.keys[place])
    drawing.draw_ranked(
        delta, delta.view(word), body, shift, 16 << finer, key, random.start, low, high, own, out
    )


def _ranked(
    delta: ops.Array, random: Random, place: int, low: float, high: float, own: bool
) -> ops.Array:
    import torch

    columns = delta.shape[1]
    order = delta.abs().argsort(dim=1, stable=True)
    steps = torch.arange(columns, device=delta.device, dtype=torch.float64).expand(order.shape)
    ranks = torch.zeros(order.shape, device=delta.device, dtype=torch.float64)
    ranks = ranks.scatter(1, order, steps)
    step = (high - low) / (columns - 1) if columns > 1 else 0.0
    chances = (low if columns > 1 else (low + high) / 2) + step * ranks
    kept = delta.double() * (random.uniform(place).double() < chances)
    return kept / chances if own else kept


def kept_by_rank(tensor: Blocks, density: Sequence[float], epsilon: Sequence[float]) -> Kept:
    """DELLA with mergekit's rescaling: draws once, and keeps a bit for each element."""
    bits = {}

    def thinned(block: Block) -> ops.Array:
        deltas = ops.deltas_of(block.base, block.experts)
        kept = drop_by_rank(deltas, block.random, density, epsilon, rescale=False)
        bits[block.random.start] = np.packbits(ops.to_numpy(kept) != 0)
        return kept

    return Kept(l1_factors(tensor, density, thinned), bits)
