"""NuSLERP: spherical interpolation of task vectors, or of weights, by weight. (Shoemake 1985)

mergekit's second slerp, from its documentation; no paper. With a base it acts on task vectors:
merged = base + slerp(expert_0 - base, expert_1 - base, t), without one on the tensors themselves;
t = weight_1 / (weight_0 + weight_1), 0.5 where the weights cancel. `nuslerp_flatten` (the default)
takes the angle between whole tensors; without it every row is a vector of its own, and with
`nuslerp_row_wise` every column is (mergekit's names; the vectors run along the first dimension).
Norms are not restored; only vectors parallel within rounding are interpolated linearly, and a
vector of zeros counts as orthogonal. One rule, mergekit's; the angle is computed in float64.

When: slerp on task vectors, or with weights instead of `t`.
Evidence: none published, for or against; task vectors of different tasks are nearly orthogonal,
  where slerp at the middle is the mean times 1.41.
"""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.merge import ops
from smelt.merge.blocks import Blocks
from smelt.merge.parameters import Switch, Weight

needs_base = "optional"
num_experts = (2, 2)


def statistics(
    tensor: Blocks,
    *,
    weight: Weight,
    nuslerp_flatten: Switch = True,
    nuslerp_row_wise: Switch = False,
) -> Iterator[NDArray[Any]] | None:
    """Shares (2, rows or 1, columns or 1) of the two, block after block; None: rows by themselves.

    An iterator, since a function of a block does not know where in the tensor the block lies.
    """
    given = tensor.base is not None
    if nuslerp_flatten or len(tensor.shape) < 2:
        shares = _shares(ops.inner_products(tensor, of_deltas=given), weight).reshape(2, 1, 1)
        return repeat(shares)
    return _by_column(tensor, weight) if nuslerp_row_wise else None


def _by_column(tensor: Blocks, weight: list[float]) -> Iterator[NDArray[Any]]:
    # Rows r and r + inner of a tensor (first, inner, columns) belong to the same vectors.
    inner, columns = int(np.prod(tensor.shape[1:-1])), tensor.shape[-1]
    grams = np.zeros((inner, columns, 2, 2))
    for block in tensor:
        vectors = ops.wide(block.experts) - (0 if block.base is None else ops.wide(block.base))
        place = (block.start + np.arange(vectors.shape[1])) % inner
        for a, b in ((0, 0), (0, 1), (1, 1)):
            products = ops.to_numpy(vectors[a] * vectors[b])
            if inner == 1:
                grams[0, :, a, b] += products.sum(axis=0)
            else:
                np.add.at(grams[..., a, b], place, products)
    shares = _shares(grams, weight)
    if inner == 1:
        return repeat(shares)
    rows, size = int(np.prod(tensor.shape[:-1])), tensor.rows_per_block
    starts = range(0, rows, size)
    return (shares[:, np.arange(one, min(one + size, rows)) % inner] for one in starts)


def _shares(gram: NDArray[Any], weight: list[float]) -> NDArray[Any]:
    """(2, ...) factors of the two vectors, from their inner products (..., 2, 2)."""
    total = sum(weight)
    t = 0.5 if abs(total) < 1e-6 else weight[1] / total
    lengths = [np.maximum(np.sqrt(gram[..., place, place]), 1e-7) for place in (0, 1)]
    cosine = np.clip(gram[..., 0, 1] / (lengths[0] * lengths[1]), -1, 1)
    parallel = 1 - cosine**2 <= 1e-16
    omega = np.where(parallel, 1.0, np.arccos(cosine))
    first = np.where(parallel, 1 - t, np.sin((1 - t) * omega) / np.sin(omega))
    return np.stack([first, np.where(parallel, t, np.sin(t * omega) / np.sin(omega))])


def nuslerp(
    base: ops.Base | None,
    experts: ops.Experts,
    *,
    statistics: Iterator[NDArray[Any]] | None,
    weight: Weight,
) -> ops.Base:
    """The point between two task vectors (without a base: tensors) that the weights say."""
    if statistics is None:
        shares = _shares(ops.row_grams(experts, base), weight)[..., None]
    else:
        shares = next(statistics)
    if shares.size == 2:
        pair = [float(share) for share in shares.reshape(-1)]
        return ops.weighted_sum(experts, pair, base, 1 - sum(pair))
    return ops.weighted_places(experts, shares, base)
