"""Merge methods on matrices: SVD and normal equations (oracles in float64, see oracles.py).

Tensors that are not matrices get the mean task vector; pass `matrix=False` for vocabulary tensors.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NOISE = 2.0**-23  # singular directions below this share are rounding of float32 inputs


def _deltas(base, experts) -> list[Array]:
    origin = np.asarray(base, np.float64)
    return [np.asarray(expert, np.float64) - origin for expert in experts]


def _polar(matrix: Array) -> Array:
    """The nearest matrix with orthonormal columns or rows; noise directions are left out."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    used = values > max(matrix.shape) * NOISE * values[0]
    return left[:, used] @ right[used]


def iso_c(base, experts, *, lambda_=1.0, matrix=True) -> Array:
    deltas = _deltas(base, experts)
    total = sum(deltas)
    if total.ndim != 2 or not matrix:
        return np.asarray(base, np.float64) + lambda_ * total / len(deltas)
    if not total.any():
        return np.asarray(base, np.float64)
    values = np.linalg.svd(total, compute_uv=False)
    return np.asarray(base, np.float64) + lambda_ * values.mean() * _polar(total)


def tsv_m(base, experts, *, lambda_=1.0, matrix=True) -> Array:
    deltas = _deltas(base, experts)
    origin = np.asarray(base, np.float64)
    if origin.ndim != 2 or not matrix or len(deltas) > min(origin.shape):
        return origin + lambda_ * sum(deltas) / len(deltas)
    keep = max(1, min(origin.shape) // len(deltas))
    lefts, strengths, rights = [], [], []
    for delta in deltas:
        left, values, right = np.linalg.svd(delta, full_matrices=False)
        for k in range(keep):
            if values[k] > max(delta.shape) * NOISE * values[0]:
                lefts.append(left[:, k])
                strengths.append(values[k])
                rights.append(right[k])
    if not lefts:
        return origin
    left, right = _polar(np.stack(lefts, axis=1)), _polar(np.stack(rights, axis=1))
    return origin + lambda_ * (left * np.array(strengths)) @ right.T


def interference(delta: Array, deltas: list[Array]) -> float:
    """What WUDI minimises: sum of |(delta - d) d^T|^2 / |d|^2."""
    return sum(
        float(np.sum(((delta - one) @ one.T) ** 2) / np.sum(one**2)) for one in deltas if one.any()
    )


def _normal(deltas: list[Array]) -> tuple[Array, Array]:
    """C and D of the gradient 2 (delta C - D) of the interference."""
    present = [one for one in deltas if one.any()]
    matrix = sum(one.T @ one / np.sum(one**2) for one in present)
    right = sum(one @ one.T @ one / np.sum(one**2) for one in present)
    return matrix, right


def wudi(
    base, experts, *, time=300.0, rank_ratio=0.85, start="sum", lambda_=1.0, matrix=True
) -> Array:
    """The closed form (SWUDI): the start, moved along the largest eigenvectors to the solution."""
    deltas = _deltas(base, experts)
    origin = np.asarray(base, np.float64)
    if origin.ndim != 2 or not matrix:
        return origin + lambda_ * sum(deltas) / len(deltas)
    if not any(one.any() for one in deltas):
        return origin
    normal, right = _normal(deltas)
    begin = sum(deltas) / (1 if start == "sum" else len(deltas))
    values, vectors = np.linalg.eigh(normal)
    values = np.maximum(values, 1e-8)
    columns = len(values)
    keep = min(columns, max(1, math.floor(columns * rank_ratio + 0.999)))
    merged = begin.copy()
    for k in range(columns - keep, columns):
        vector = vectors[:, k]
        reached = 1 - math.exp(-time * values[k])
        target = right @ vector / values[k]
        merged += reached * np.outer(target - begin @ vector, vector)
    return origin + lambda_ * merged


def wudi_adam(
    base, experts, *, steps=300, learning_rate=1e-5, start="sum", lambda_=1.0, matrix=True
) -> Array:
    """The paper's way: Adam (0.9, 0.999, 1e-8) on the interference from the start."""
    deltas = _deltas(base, experts)
    origin = np.asarray(base, np.float64)
    if origin.ndim != 2 or not matrix:
        return origin + lambda_ * sum(deltas) / len(deltas)
    if not any(one.any() for one in deltas):
        return origin
    normal, right = _normal(deltas)
    merged = sum(deltas) / (1 if start == "sum" else len(deltas))
    first, second = np.zeros_like(merged), np.zeros_like(merged)
    for step in range(1, steps + 1):
        gradient = 2 * (merged @ normal - right)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        root = np.sqrt(second / (1 - 0.999**step))
        merged = merged - learning_rate * (first / (1 - 0.9**step)) / (root + 1e-8)
    return origin + lambda_ * merged
