"""Averages and interpolations of whole tensors (oracles in float64, see oracles.py)."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def floats(array: NDArray) -> Array:
    return np.asarray(array, dtype=np.float64)


def deltas_of(base: NDArray, experts: Sequence[NDArray]) -> list[Array]:
    return [floats(expert) - floats(base) for expert in experts]


def weights_of(weight: Sequence[float] | None, count: int) -> list[float]:
    return [1.0 / count] * count if weight is None else [float(one) for one in weight]


def linear(base, experts, *, weight=None, normalize=True) -> Array:
    weights = weights_of(weight, len(experts))
    total = sum(share * floats(one) for share, one in zip(weights, experts, strict=True))
    return total / sum(weights) if normalize else total


def passthrough(base, experts, *, scale=None) -> Array:
    (only,) = experts
    return floats(only) * (1.0 if scale is None else scale)


def _arc(first: Array, second: Array, t: float, cosine: float) -> Array:
    omega = math.acos(cosine)
    return (math.sin((1 - t) * omega) * first + math.sin(t * omega) * second) / math.sin(omega)


def slerp(base, experts, *, t=0.5) -> Array:
    """The base is t = 0; without a base the first expert is."""
    first, second = [floats(one) for one in ([] if base is None else [base]) + list(experts)]
    if first.size == 0:
        return first
    norms = [np.linalg.norm(one.ravel()) for one in (first, second)]
    units = [one / (n if n > 1e-8 else 1.0) for one, n in zip((first, second), norms, strict=True)]
    cosine = float(np.clip(np.sum(units[0] * units[1]), -1, 1))
    if abs(cosine) > 0.9995:
        return (1 - t) * first + t * second
    return _arc(first, second, t, cosine)


def nuslerp(base, experts, *, weight=None, nuslerp_flatten=True, nuslerp_row_wise=False) -> Array:
    weights = weights_of(weight, 2)
    total = sum(weights)
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    origin = np.zeros_like(floats(experts[0])) if base is None else floats(base)
    first, second = deltas_of(origin, experts)
    shape = first.shape
    if nuslerp_flatten or first.ndim < 2:
        first, second = first.reshape(1, -1), second.reshape(1, -1)
    elif nuslerp_row_wise:  # mergekit's name: the vectors run along the first axis
        first, second = np.moveaxis(first, 0, -1), np.moveaxis(second, 0, -1)
    merged = np.empty_like(first)
    for place in np.ndindex(*first.shape[:-1]):
        one, two = first[place], second[place]
        cosine = np.sum(one * two) / (
            max(np.linalg.norm(one), 1e-7) * max(np.linalg.norm(two), 1e-7)
        )
        cosine = float(np.clip(cosine, -1, 1))
        colinear = 1 - cosine**2 <= 1e-16
        merged[place] = (1 - t) * one + t * two if colinear else _arc(one, two, t, cosine)
    if not nuslerp_flatten and nuslerp_row_wise and len(shape) > 1:
        merged = np.moveaxis(merged, -1, 0)
    return origin + merged.reshape(shape)


def multislerp(base, experts, *, weight=None, normalize_weights=True, eps=1e-8) -> Array:
    if len(experts) == 1:
        return floats(experts[0])
    weights = np.array(weights_of(weight, len(experts)))
    if normalize_weights:
        weights = weights / weights.sum()
    origin = np.zeros_like(floats(experts[0])) if base is None else floats(base)
    points = deltas_of(origin, experts)
    if all(not point.any() for point in points):
        return origin  # mergekit raises for three and more
    norms = [np.linalg.norm(point.ravel()) for point in points]
    units = [point / (norm + eps) for point, norm in zip(points, norms, strict=True)]
    mean = sum(w * unit for w, unit in zip(weights, units, strict=True))
    length = np.linalg.norm(mean.ravel())
    if length < eps:
        if len(experts) == 2:
            return origin + weights[0] * points[0] + weights[1] * points[1]
        raise ValueError("the weighted sum of directions is zero")
    mean = mean / length
    tangent = sum(
        w * (unit - np.sum(unit * mean) * mean) for w, unit in zip(weights, units, strict=True)
    )
    angle = np.linalg.norm(tangent.ravel()) + eps
    on_sphere = mean * math.cos(angle) + tangent * (math.sin(angle) / angle)
    return origin + on_sphere * sum(w * norm for w, norm in zip(weights, norms, strict=True))


def karcher(base, experts, *, max_iter=10, tol=1e-5) -> Array:
    points = [floats(expert) for expert in experts]
    if len(points) == 1:
        return points[0]
    norms = [np.linalg.norm(point.ravel()) for point in points]
    units = [point / norm for point, norm in zip(points, norms, strict=True) if norm > tol]
    if not units:
        return np.zeros_like(points[0])
    share = 1 / len(units)
    mean = share * sum(units)
    length = np.linalg.norm(mean.ravel())
    mean = units[0] if length < tol else mean / length
    for _ in range(max_iter):
        tangent = np.zeros_like(mean)
        for unit in units:
            dot = float(np.clip(np.sum(mean * unit), -1, 1))
            angle = math.acos(dot)
            if angle >= tol and math.sin(angle) >= 1e-12:
                tangent += share * angle / math.sin(angle) * (unit - dot * mean)
        step = np.linalg.norm(tangent.ravel())
        if step < tol:
            break
        mean = math.cos(step) * mean + math.sin(step) * tangent / step
        mean = mean / np.linalg.norm(mean.ravel())
    return mean * sum(norms) / len(points)


def model_stock(base, experts, *, filter_wise=False, rule="mergekit") -> Array:
    origin = floats(base)
    deltas = deltas_of(base, experts)
    count = len(deltas)
    rows = origin.reshape(-1, origin.shape[-1]) if filter_wise else origin.reshape(1, -1)
    merged = np.empty_like(rows)
    for row in range(rows.shape[0]):
        vectors = [delta.reshape(rows.shape)[row] for delta in deltas]
        cosines = []
        for i in range(count):
            for j in range(i + 1, count):
                norms = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
                if rule == "mergekit":
                    norms = max(norms, 1e-6)
                dot = np.sum(vectors[i] * vectors[j])
                cosines.append(np.clip(dot / norms, -1, 1) if norms > 0 else 0.0)
        cosine = np.mean(cosines)
        denominator = 1 + (count - 1) * cosine
        t = 0.0 if abs(denominator) < 1e-6 else count * cosine / denominator
        merged[row] = rows[row] + t * np.mean(vectors, axis=0)
    return merged.reshape(origin.shape)
