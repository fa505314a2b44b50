"""What merge methods are made of: pure functions of blocks, numpy on the CPU, torch on a device.

`base` is (rows, columns), `experts` and `deltas` are (num_experts, rows, columns). Sums are taken
in float64 and rounded once, so that the order of experts hardly matters.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from smelt.merge import compiled

if TYPE_CHECKING:
    from smelt.merge.blocks import Block, Blocks

Array: TypeAlias = Any
"""A numpy array, or a torch tensor of the same shape when the work is done on a device."""
Base: TypeAlias = Float[Any, "*block"]  # noqa: F821
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
    weights: Sequence[float],
    *,
    scale: float = 1.0,
    elect: bool = False,
    normalize: bool = False,
) -> Array:
    """Base plus scale times the weighted task vectors.

    elect: per element, the sign with more weighted mass wins (a tie is +) and only task vectors
    with that sign count; zeros never do. normalize: a weighted mean, over those that count, instead
    of a sum; where the weights sum to less than 1e-8 it stays a sum.
    """
    total = sum(weights)
    if normalize and not elect and abs(total) >= 1e-8:
        scale /= total
    if on_cpu(base):
        out = np.empty(base.size, dtype=base.dtype)
        flat = np.ascontiguousarray(base).reshape(-1)
        compiled.add_deltas(flat, _flat(deltas), _numbers(weights), scale, elect, normalize, out)
        return out.reshape(base.shape)
    parts = [delta.double() * weight for delta, weight in zip(deltas, weights, strict=True)]
    mass = base.double() * 0
    for part in parts:
        mass += part
    merged = mass
    if elect:
        merged, divisor = mass * 0, mass * 0
        for part, weight in zip(parts, weights, strict=True):
            agrees = ((part > 0) & (mass >= 0)) | ((part < 0) & (mass < 0))
            merged += part * agrees
            divisor += agrees.double() * weight
        if normalize:
            merged = merged / divisor.masked_fill(divisor.abs() < 1e-8, 1.0)
    return (base.double() + scale * merged).to(base.dtype)


def keep_between(deltas: Array, low: Sequence[float], high: Sequence[float] | None = None) -> Array:
    """Per expert, zero what is smaller in magnitude than `low`, or not smaller than `high`."""
    most = [float("inf")] * len(low) if high is None else high
    if on_cpu(deltas):
        out = np.empty_like(_flat(deltas))
        bounds = [np.asarray(one, dtype=deltas.dtype) for one in (low, most)]
        compiled.keep_between(_flat(deltas), *bounds, out)
        return out.reshape(deltas.shape)
    import torch

    kept = [
        delta * ((delta.abs() >= least) & (delta.abs() < limit))
        for delta, least, limit in zip(deltas, low, most, strict=True)
    ]
    return torch.stack(kept)


def gram(vectors: Array) -> NDArray[Any]:
    """Inner products of all pairs, (count, count) in float64."""
    count = vectors.shape[0]
    if on_cpu(vectors):
        out = np.zeros((count, count))
        compiled.gram(_flat(vectors), out)
        return out
    flat = vectors.reshape(count, -1).double()
    return to_numpy(flat @ flat.T)


def absolute_sums(values: Array) -> NDArray[Any]:
    """Sum of magnitudes per expert, (num_experts,) in float64."""
    if on_cpu(values):
        out = np.zeros(values.shape[0])
        compiled.absolute_sums(_flat(values), out)
        return out
    return to_numpy(values.reshape(values.shape[0], -1).double().abs().sum(dim=1))


def variances(deltas: Array) -> Array:
    """Population variance over the experts, (rows, columns)."""
    if on_cpu(deltas):
        out = np.empty(deltas[0].size, dtype=deltas.dtype)
        compiled.variances(_flat(deltas), out)
        return out.reshape(deltas.shape[1:])
    return deltas.double().var(dim=0, correction=0).to(deltas.dtype)


def uniform(key: int, start: int, like: Array) -> Array:
    """Numbers in [0, 1), multiples of 2^-24, shaped like an array; the first has index `start`."""
    size = int(np.prod(like.shape))
    before = start % 4
    words = np.empty(-(-(before + size) // 4) * 4, dtype=np.uint32)
    # On the CPU for every device: 0.4 ns a word, and then no device can draw other numbers.
    compiled.philox(np.uint64(key), start - before, words)
    fraction = words[before : before + size] >> np.uint32(8)
    numbers = fraction.astype(np.float32).reshape(tuple(like.shape)) * np.float32(2**-24)
    if on_cpu(like):
        return numbers
    import torch

    return torch.from_numpy(numbers).to(like.device)


def thresholds(tensor: "Blocks", shares: Sequence[float]) -> list[float]:
    """Per expert, the magnitude from which on the largest `share` of its task vector lies.

    k = max(1, int(share * n)) elements and every element that equals the k-th: bf16 task vectors
    have many equal magnitudes, and which of them survived would otherwise be chance. A share of 1
    gives 0, a share of 0 infinity.
    """
    found = [0.0 if share >= 1 else float("inf") for share in shares]
    asked = [place for place, share in enumerate(shares) if 0 < share < 1]
    if asked:
        chosen = kth_largest(
            tensor,
            lambda block: abs(deltas_of(block.base, block.experts[asked])),
            None,
            [shares[place] for place in asked],
        )
        for place, threshold in zip(asked, chosen, strict=True):
            found[place] = threshold
    return found


def kth_largest(
    tensor: "Blocks", values: "Callable[[Block], Array]", counts: Sequence[int] | None,
    shares: Sequence[float] = (), *, of_nonzero: bool = False,
) -> list[float]:  # fmt: skip
    """Exact selection without sorting: the k-th largest of non-negative numbers, per series.

    values: block -> (series, rows, columns), computed anew in each pass. counts: k per series;
    without them k = max(1, int(share * n)), n all numbers or (`of_nonzero`) those above zero.
    A digit of 15 or 16 of the number's bits is counted in each pass over the tensor: two passes
    for float32, four for float64. Nothing selected (k = 0 or an empty tensor) gives infinity.
    """
    wide = tensor.dtype is np.float64
    word = np.uint64 if wide else np.uint32
    shift = 48 if wide else 16
    found: NDArray[Any] | None = None
    left: list[int] = []
    while True:
        seen: NDArray[Any] | None = None
        for block in tensor:
            bits = _flat(to_numpy(values(block))).view(word)
            if seen is None:
                seen = np.zeros((bits.shape[0], 1 << 16), dtype=np.int64)
            if found is None:
                compiled.first_histogram(bits, shift, seen)
            else:
                compiled.histogram(bits, shift, 16, found, seen)
        if seen is None:
            return [float("inf")] * len(counts or shares)
        if found is None:
            found = np.zeros(seen.shape[0], dtype=np.uint64)
            total = seen.sum(axis=1)
            if of_nonzero:
                total = total - _zeros(tensor, values, seen)
            left = list(counts or [max(1, int(s * n)) for s, n in zip(shares, total, strict=True)])
        for series, row in enumerate(seen):
            from_above = np.cumsum(row[::-1])
            place = int(np.searchsorted(from_above, max(1, left[series])))
            digit = len(row) - 1 - min(place, len(row) - 1)
            left[series] -= int(from_above[place - 1]) if place else 0
            found[series] = (found[series] << np.uint64(16)) | np.uint64(digit)
        if shift == 0:
            break
        shift -= 16
    kind = np.float64 if wide else np.float32
    return [float(one) for one in found.astype(word).view(kind)]


def _zeros(tensor: "Blocks", values: "Callable[[Block], Array]", seen: Any) -> Any:
    """How many numbers of each series are exactly zero (looked up only where small ones are)."""
    if not seen[:, 0].any():
        return 0
    return sum(
        (to_numpy(values(block)).reshape(seen.shape[0], -1) == 0).sum(axis=1) for block in tensor
    )
