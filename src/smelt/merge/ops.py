"""Kernels that merge methods are made of: pure functions of fp32 tensors."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_ROW = 1024
_CHUNK = 1 << 16  # elements; a few float64 copies of them fit into a core's cache


def deltas_of(
    base: Float[Tensor, "*shape"], experts: Sequence[Float[Tensor, "*shape"]]
) -> list[Float[Tensor, "*shape"]]:
    """The task vectors: expert - base."""
    return [expert - base for expert in experts]


def weighted_sum(
    tensors: Sequence[Float[Tensor, "*shape"]], weights: Sequence[float]
) -> Float[Tensor, "*shape"]:
    """Sum of weight * tensor, in float64 and rounded once: order hardly matters."""
    merged = torch.empty_like(tensors[0], memory_format=torch.contiguous_format)
    for out, *parts in _chunks([merged, *tensors]):
        total = torch.zeros_like(out, dtype=torch.float64)
        for part, weight in zip(parts, weights, strict=True):
            total.add_(part, alpha=weight)
        out.copy_(total)
    return merged


def _chunks(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The flattened tensors in step, piece by piece, so that float64 costs little."""
    return zip(*(torch.split(tensor.reshape(-1), _CHUNK) for tensor in tensors), strict=True)


def trim(delta: Float[Tensor, "*shape"], density: float) -> Float[Tensor, "*shape"]:
    """Keep the largest `density` share of a tensor by magnitude, zero the rest.

    k = max(1, int(density * n)) elements, and every element that equals the k-th: bf16 task vectors
    have many equal magnitudes, and which of them survived would otherwise be chance. Density 0
    keeps nothing.
    """
    if density >= 1 or delta.numel() == 0:
        return delta
    if density <= 0:
        return torch.zeros_like(delta)
    magnitude = delta.abs()
    threshold = kth_largest(magnitude, max(1, int(density * delta.numel())))
    return delta * (magnitude >= threshold)


def kth_largest(values: Float[Tensor, "*shape"], k: int) -> Float[Tensor, ""]:
    """The k-th largest element (k from 1), exactly."""
    # numpy's selection is exact and takes half the time of torch.kthvalue.
    flat = values.detach().cpu().reshape(-1).numpy()
    place = flat.size - k
    return torch.tensor(np.partition(flat, place)[place], dtype=values.dtype)


def elect_sign(weighted: Sequence[Float[Tensor, "*shape"]]) -> Float[Tensor, "*shape"]:
    """+1 or -1 per element: the sign of the sum of the (weighted) task vectors; a tie is +1."""
    total = weighted_sum(weighted, [1.0] * len(weighted))
    return (total >= 0).to(total.dtype).mul_(2).sub_(1)


def agrees(
    weighted: Float[Tensor, "*shape"], sign: Float[Tensor, "*shape"]
) -> Bool[Tensor, "*shape"]:
    """Where a task vector has the elected sign; zeros never agree."""
    return weighted * sign > 0


def mean_of_agreeing(
    deltas: Sequence[Float[Tensor, "*shape"]],
    weights: Sequence[float],
    sign: Float[Tensor, "*shape"],
    *,
    normalize: bool = True,
) -> Float[Tensor, "*shape"]:
    """Weighted mean (sum, without `normalize`) over the task vectors that have the elected sign."""
    merged = torch.empty_like(sign, memory_format=torch.contiguous_format)
    for out, elected, *parts in _chunks([merged, sign, *deltas]):
        total = torch.zeros_like(out, dtype=torch.float64)
        divisor = torch.zeros_like(total)
        for part, weight in zip(parts, weights, strict=True):
            agreeing = agrees(part * weight, elected)
            total.add_(part * agreeing, alpha=weight)
            divisor.add_(agreeing, alpha=weight)
        if normalize:
            total /= divisor.masked_fill_(divisor.abs() < 1e-8, 1.0)
        out.copy_(total)
    return merged


def stable_sum(values: Float[Tensor, "*shape"]) -> float:
    """Sum in float64 whose bits do not depend on the number of threads.

    torch splits one long sum over its threads; sums of many short rows it does not split.
    """
    flat = values.reshape(-1).double()
    while flat.numel() > 1:
        short = -flat.numel() % _ROW
        if short:
            flat = torch.nn.functional.pad(flat, (0, short))
        flat = flat.view(-1, _ROW).sum(dim=1)
    return float(flat.sum())


def dot(left: Float[Tensor, "*shape"], right: Float[Tensor, "*shape"]) -> float:
    """Inner product in float64, by chunks (bounded memory), independent of the thread count."""
    return sum(stable_sum(a.double() * b.double()) for a, b in _chunks([left, right]))
