"""What merge methods are made of: pure functions of blocks, numpy on the CPU, torch on a device.

`base` is (rows, columns), `experts` and `deltas` are (num_experts, rows, columns). Sums are taken
in float64 and rounded once, so that the order of experts hardly matters.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from smelt.merge import compiled, drawing

if TYPE_CHECKING:
    from smelt.merge.blocks import Blocks

Array: TypeAlias = Any
"""A numpy array, or a torch tensor of the same shape when the work is done on a device."""
Base: TypeAlias = Float[Any, "*block"]
Experts: TypeAlias = Float[Any, "experts *block"]  # noqa: F821


def on_cpu(values: Array) -> bool:
    """Whether these are numpy arrays (else torch tensors)."""
    return isinstance(values, np.ndarray)


def to_device(values: NDArray[Any], device: str) -> Array:
    """The array itself for "cpu", else a torch tensor on the device."""
    if device == "cpu":
        return values
    import torch

    # A copy also for the tests' "torch" device, the CPU: blocks share one buffer.
    return torch.from_numpy(values.copy()).to("cpu" if device == "torch" else device)


def to_numpy(values: Array) -> NDArray[Any]:
    """A block as a numpy array."""
    return values if on_cpu(values) else np.asarray(values.cpu().numpy())


def _numbers(values: Sequence[float] | NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values, dtype=np.float64)


def _flat(values: Array) -> Array:
    """(count, numbers) of an array of any shape whose first dimension is kept."""
    return np.ascontiguousarray(values).reshape(values.shape[0], -1)


def deltas_of(base: Array, experts: Array) -> Array:
    """The task vectors, expert - base."""
    return experts - base


def weighted_sum(
    experts: Array, weights: Sequence[float], base: Array | None = None, base_weight: float = 0.0
) -> Array:
    """base_weight * base + sum of weight * expert."""
    given = experts[0] if base is None else base
    if not on_cpu(experts):
        total = given.double() * (base_weight if base is not None else 0.0)
        for expert, weight in zip(experts, weights, strict=True):
            total += expert.double() * weight
        return total.to(experts.dtype)
    out = np.empty(given.size, dtype=experts.dtype)
    scale = base_weight if base is not None else 0.0
    first = np.ascontiguousarray(given).reshape(-1)
    compiled.weighted_sum(first, scale, _flat(experts), _numbers(weights), out)
    return out.reshape(given.shape)


def add_deltas(
    base: Array,
    deltas: Array,
    weights: Sequence[float] | NDArray[Any],
    *,
    scale: float = 1.0,
    elect: bool = False,
    normalize: bool = False,
    votes: Sequence[float] | None = None,
    tie_elects: bool = True,
    least: float = 1e-8,
    instead: float = 1.0,
) -> Array:
    """Base plus scale times the weighted task vectors.

    elect: per element, the sign with more mass wins and only task vectors with that sign count;
    zeros never do. The mass is weighed by `votes` (the weights unless given); where it cancels, +
    is elected, or without `tie_elects` nobody. normalize: a weighted mean, over those that count,
    instead of a sum; a sum of weights below `least` is replaced by `instead`.
    """
    total = sum(weights)
    if normalize and not elect:
        scale /= total if abs(total) >= least else instead
    ballots = weights if votes is None else votes
    if on_cpu(base):
        out = np.empty(base.size, dtype=base.dtype)
        flat = np.ascontiguousarray(base).reshape(-1)
        compiled.add_deltas(
            flat, _flat(deltas), _numbers(weights), _numbers(ballots), scale, elect, tie_elects,
            normalize, least, instead, out,
        )  # fmt: skip
        return out.reshape(base.shape)
    parts = [delta.double() * weight for delta, weight in zip(deltas, weights, strict=True)]
    merged = sum(parts)
    if elect:
        cast = [delta.double() * vote for delta, vote in zip(deltas, ballots, strict=True)]
        mass = sum(cast)
        up = (mass >= 0) if tie_elects else (mass > 0)
        merged, divisor = mass * 0, mass * 0
        for part, vote, weight in zip(parts, cast, weights, strict=True):
            agrees = ((vote > 0) & up) | ((vote < 0) & (mass < 0))
            merged += part * agrees
            divisor += agrees.double() * weight
        if normalize:
            merged = merged / divisor.masked_fill(divisor.abs() < least, instead)
    return (base.double() + scale * merged).to(base.dtype)


def keep_between(
    deltas: Array,
    low: Sequence[float],
    high: Sequence[float] | None = None,
    factors: Sequence[float] | None = None,
) -> Array:
    """Per expert, zero what is smaller in magnitude than `low` or larger than `high`; scale it."""
    most = [float("inf")] * len(low) if high is None else high
    scales = [1.0] * len(low) if factors is None else factors
    if on_cpu(deltas):
        out = np.empty_like(_flat(deltas))
        floor, ceiling = (np.asarray(one, dtype=deltas.dtype) for one in (low, most))
        compiled.keep_between(_flat(deltas), floor, ceiling, _numbers(scales), out)
        return out.reshape(deltas.shape)
    import torch

    kept = [
        (delta.double() * ((delta.abs() >= least) & (delta.abs() <= limit)) * factor)
        for delta, least, limit, factor in zip(deltas, low, most, scales, strict=True)
    ]
    return torch.stack(kept).to(deltas.dtype)


def gram(vectors: Array, base: Array | None = None) -> NDArray[Any]:
    """Inner products of all pairs of vectors, or of vector - base: (count, count) in float64."""
    count = vectors.shape[0]
    if on_cpu(vectors):
        out = np.zeros((1, count, count))
        flat = _flat(vectors)
        compiled.gram(_origin(base, flat), flat, flat.shape[1], out)
        return np.asarray(out[0])
    wide = _moved(vectors, base).reshape(count, -1)
    return to_numpy(wide @ wide.T)


def row_grams(vectors: Array, base: Array | None = None) -> NDArray[Any]:
    """`gram` of every row by itself: (rows, count, count) in float64."""
    count, rows, columns = vectors.shape
    if on_cpu(vectors):
        out = np.zeros((rows, count, count))
        flat = _flat(vectors)
        compiled.gram(_origin(base, flat), flat, columns, out)
        return out
    wide = _moved(vectors, base).transpose(0, 1)
    return to_numpy(wide @ wide.transpose(1, 2))


def _origin(base: Array | None, flat: Array) -> Array:
    return np.empty(0, flat.dtype) if base is None else np.ascontiguousarray(base).reshape(-1)


def _moved(vectors: Array, base: Array | None) -> Array:
    """vectors - base in float64."""
    return wide(vectors) if base is None else wide(vectors) - wide(base)


def wide(values: Array) -> Array:
    """The same numbers in float64."""
    return values.astype(np.float64) if on_cpu(values) else values.double()


def like(values: Array, other: Array) -> Array:
    """The numbers in the type of another array."""
    return values.astype(other.dtype) if on_cpu(values) else values.to(other.dtype)


def inner_products(tensor: "Blocks", *, of_deltas: bool) -> NDArray[Any]:
    """`gram` of whole tensors, of the experts or of their task vectors, summed over the blocks."""
    total = np.zeros((len(tensor.experts),) * 2)
    for block in tensor:
        total += gram(block.experts, block.base if of_deltas else None)
    # NaN is refused with the name of its file, but only when blocks are merged.
    return total if np.isfinite(total).all() else np.zeros_like(total)


def weighted_places(vectors: Array, weights: NDArray[Any], base: Array | None = None) -> Array:
    """base + sum of weight * (vector - base), or without a base of weight * vector.

    weights: (count, rows, 1) or (count, 1, columns) or (count, rows, columns).
    """
    shares = to_like(weights, vectors)
    total = wide(vectors[0]) * 0
    for vector, share in zip(_moved(vectors, base), shares, strict=True):
        total = total + vector * share
    return like(total if base is None else wide(base) + total, vectors)


def to_like(values: NDArray[Any], other: Array) -> Array:
    """A numpy array as it is, or as a tensor where `other` is one."""
    if on_cpu(other):
        return values
    import torch

    return torch.from_numpy(values).to(other.device)


def add_changes(base: Array, experts: Array, epsilon: float, boosts: Sequence[float]) -> Array:
    """Base plus task vectors where they exceed epsilon, averaged over the experts that do.

    What one expert alone changed is multiplied by its boost.
    """
    if on_cpu(base):
        out = np.empty(base.size, dtype=base.dtype)
        flat = np.ascontiguousarray(base).reshape(-1)
        compiled.add_changes(flat, _flat(experts), float(epsilon), _numbers(boosts), out)
        return out.reshape(base.shape)
    deltas = deltas_of(base, experts).double()
    changed = deltas.abs() > epsilon
    count = changed.sum(0)
    total = base.double() * 0
    for delta, mine, boost in zip(deltas, changed, boosts, strict=True):
        total += delta * (mine * (1 / count.clip(min=1).double()).masked_fill(count == 1, boost))
    return (base.double() + total).to(base.dtype)


def count_changes(base: Array, experts: Array, epsilon: float) -> tuple[Any, Any]:
    """Per expert, how many elements it changed by more than epsilon alone, and with others."""
    number = experts.shape[0]
    if on_cpu(base):
        alone, shared = np.zeros(number, dtype=np.int64), np.zeros(number, dtype=np.int64)
        flat = np.ascontiguousarray(base).reshape(-1)
        compiled.count_changes(flat, _flat(experts), float(epsilon), alone, shared)
        return alone, shared
    changed = (deltas_of(base, experts).double().abs() > epsilon).reshape(number, -1)
    single = changed.sum(0) == 1
    return to_numpy((changed & single).sum(1)), to_numpy((changed & ~single).sum(1))


def choose(condition: Array, yes: Array, no: Array) -> Array:
    """Numbers of one array where a condition holds, of another elsewhere."""
    if on_cpu(yes):
        return np.where(condition, yes, no)
    return yes.where(condition, no)


def log(values: Array) -> Array:
    """Natural logarithm."""
    return np.log(values) if on_cpu(values) else values.log()


def absolute_sums(values: Array) -> NDArray[Any]:
    """Sum of magnitudes per expert, (num_experts,) in float64."""
    return _power_sums(values, 1)


def energies(values: Array) -> NDArray[Any]:
    """Sum of squares per expert, (num_experts,) in float64."""
    return _power_sums(values, 2)


def _power_sums(values: Array, power: int) -> NDArray[Any]:
    if on_cpu(values):
        out = np.zeros(values.shape[0])
        compiled.power_sums(_flat(values), power, out)
        return out
    return to_numpy((values.reshape(values.shape[0], -1).double().abs() ** power).sum(dim=1))


def variances(experts: Array) -> Array:
    """Population variance over the experts (or task vectors, the same): (rows, columns)."""
    if on_cpu(experts):
        out = np.empty(experts[0].size, dtype=experts.dtype)
        compiled.variances(_flat(experts), out)
        return out.reshape(experts.shape[1:])
    gaps = experts.double() - experts[:1].double()
    spread = (gaps**2).sum(0) - gaps.sum(0) ** 2 / experts.shape[0]
    return (spread.clip(min=0) / experts.shape[0]).to(experts.dtype)


def softmax(values: Array) -> Array:
    """Softmax over the last dimension, in float64."""
    numbers = wide(values)
    if not on_cpu(values):
        return numbers.softmax(dim=-1)
    raised = np.exp(numbers - numbers.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def uniform(key: int, start: int, like: Array) -> Array:
    """Numbers in [0, 1), multiples of 2^-24, shaped like an array; the first has index `start`."""
    size = int(np.prod(like.shape))
    before = start % 4
    words = np.empty(-(-(before + size) // 4) * 4, dtype=np.uint32)
    # On the CPU for every device: 0.4 ns a word, and then no device can draw other numbers.
    drawing.philox(np.uint64(key), start - before, words)
    fraction = words[before : before + size] >> np.uint32(8)
    numbers = fraction.astype(np.float32).reshape(tuple(like.shape)) * np.float32(2**-24)
    return to_like(numbers, like)
