"""Merge methods in plain float64, written from the formulas and not from our kernels.

One function per method, `NAME(base, experts, **parameters)`: base is an array (or None where a
method has none), experts a list of arrays of the same shape, every result float64 of that shape.
Clarity over speed. `rule="mergekit"` is what mergekit 0.1.5 computes, `rule="paper"` the
publication. Random methods take the keep masks as an argument. Equal magnitudes at a selection
threshold are all kept (mergekit keeps an arbitrary subset). Averages, methods on matrices
and those that need statistics of data are in oracles_*.py and re-exported here.
"""

import numpy as np
from numpy.typing import NDArray

from tests.merge.oracles_average import (
    deltas_of,
    floats,
    karcher,
    linear,
    model_stock,
    multislerp,
    nuslerp,
    passthrough,
    slerp,
    weights_of,
)
from tests.merge.oracles_data import fisher, regmean
from tests.merge.oracles_matrix import iso_c, tsv_m, wudi, wudi_adam

__all__ = [
    "fisher", "iso_c", "karcher", "linear", "model_stock", "multislerp", "nuslerp", "passthrough",
    "regmean", "slerp", "tsv_m", "wudi", "wudi_adam",
]  # fmt: skip

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


# The task-vector family


def keep_largest(delta: Array, density: float) -> Mask:
    """TIES: the `density` share of largest magnitude, at least one element."""
    if density >= 1 or density <= 0 or delta.size == 0:
        return np.full(delta.shape, density >= 1)
    count = max(1, int(density * delta.size))
    return np.abs(delta) >= np.sort(np.abs(delta).ravel())[::-1][count - 1]


def keep_band(delta: Array, density: float, gamma: float) -> Mask:
    """Breadcrumbs: without the `gamma` largest share, then the largest, `density` in all."""
    if density >= 1 or delta.size == 0:
        return np.ones(delta.shape, dtype=bool)
    target, top = int(density * delta.size), int(gamma * delta.size)
    if target == 0:
        return np.zeros(delta.shape, dtype=bool)
    bottom = max(0, delta.size - target - top)
    ordered = np.sort(np.abs(delta).ravel())
    magnitude = np.abs(delta)
    return (magnitude >= ordered[bottom]) & (magnitude <= ordered[bottom + target - 1])


def keep_probability(delta: Array, density: float, epsilon: float) -> Array:
    """DELLA: linear in the rank of magnitude within the row, density -/+ epsilon."""
    rows = delta.reshape(-1, delta.shape[-1])
    chance = np.full(rows.shape, float(density))
    width = rows.shape[1]
    for row in range(rows.shape[0]):
        order = np.argsort(np.abs(rows[row]), kind="stable")
        for rank, column in enumerate(order):
            if width > 1:
                chance[row, column] = density - epsilon + 2 * epsilon * rank / (width - 1)
    return chance.reshape(delta.shape)


def _match_l1(thinned: Array, original: Array) -> Array:
    before, after = np.abs(original).sum(), np.abs(thinned).sum()
    return thinned if before < 1e-7 or after < 1e-7 else thinned * (before / after)


def _combine(base, deltas, weights, *, elect, normalize, lambda_=1.0, rule="mergekit") -> Array:
    """Weigh, elect a sign per element, add, normalise, scale: what the family shares."""
    weighted = [w * delta for w, delta in zip(weights, deltas, strict=True)]
    if not elect:
        divisor = sum(weights)
        divisor = 1.0 if abs(divisor) < 1e-8 else divisor
        merged = sum(weighted) / (divisor if normalize else 1.0)
        return floats(base) + lambda_ * merged
    mass = sum(weighted) if rule == "mergekit" else sum(deltas)
    sign = np.where(mass >= 0, 1.0, -1.0) if rule == "mergekit" else np.sign(mass)
    voted = weighted if rule == "mergekit" else deltas
    agree = [(np.sign(one) == sign) & (sign != 0) for one in voted]
    merged = sum(np.where(yes, one, 0.0) for yes, one in zip(agree, weighted, strict=True))
    if normalize:
        divisor = sum(np.where(yes, w, 0.0) for yes, w in zip(agree, weights, strict=True))
        merged = merged / np.where(divisor == 0, 1.0, divisor)
    return floats(base) + lambda_ * merged


def task_arithmetic(base, experts, *, weight=None, normalize=False, lambda_=1.0) -> Array:
    weights = weights_of(weight, len(experts))
    return _combine(
        base, deltas_of(base, experts), weights, elect=False, normalize=normalize, lambda_=lambda_
    )


def _thinned(base, experts, masks, rescale) -> list[Array]:
    kept = []
    for delta, mask in zip(deltas_of(base, experts), masks, strict=True):
        thin = np.where(mask, delta, 0.0)
        # A mask that keeps everything changes nothing, so matching the norm does not either.
        kept.append(_match_l1(thin, delta) if rescale else thin)
    return kept


def ties(
    base, experts, *, weight=None, density=None, normalize=True, rescale=False, lambda_=1.0,
    rule="mergekit",
) -> Array:  # fmt: skip
    weights, densities = weights_of(weight, len(experts)), density or [1.0] * len(experts)
    deltas = deltas_of(base, experts)
    masks = [keep_largest(delta, one) for delta, one in zip(deltas, densities, strict=True)]
    deltas = _thinned(base, experts, masks, rescale)
    return _combine(
        base, deltas, weights, elect=True, normalize=normalize, lambda_=lambda_, rule=rule
    )


def _breadcrumbs(base, experts, weight, density, gamma, rescale) -> tuple[list[Array], list[float]]:
    count = len(experts)
    densities, gammas = density or [1.0] * count, gamma or [0.01] * count
    deltas = deltas_of(base, experts)
    masks = [keep_band(*each) for each in zip(deltas, densities, gammas, strict=True)]
    return _thinned(base, experts, masks, rescale), weights_of(weight, count)


def breadcrumbs(
    base, experts, *, weight=None, density=None, gamma=None, normalize=False, rescale=False,
    lambda_=1.0,
) -> Array:  # fmt: skip
    deltas, weights = _breadcrumbs(base, experts, weight, density, gamma, rescale)
    return _combine(base, deltas, weights, elect=False, normalize=normalize, lambda_=lambda_)


def breadcrumbs_ties(
    base, experts, *, weight=None, density=None, gamma=None, normalize=False, rescale=False,
    lambda_=1.0, rule="mergekit",
) -> Array:  # fmt: skip
    deltas, weights = _breadcrumbs(base, experts, weight, density, gamma, rescale)
    return _combine(
        base, deltas, weights, elect=True, normalize=normalize, lambda_=lambda_, rule=rule
    )


def _sampled(base, experts, masks, chances, rescale, rule) -> list[Array]:
    """Task vectors after dropping; chances: per expert the keep probability, number or array."""
    kept = []
    for delta, mask, chance in zip(deltas_of(base, experts), masks, chances, strict=True):
        if np.all(np.asarray(chance) >= 1):
            kept.append(delta)
        elif np.all(np.asarray(chance) <= 0):
            kept.append(np.zeros_like(delta))
        elif not rescale:
            kept.append(np.where(mask, delta, 0.0))
        elif rule == "paper":
            kept.append(np.where(mask, delta / chance, 0.0))
        else:
            kept.append(_match_l1(np.where(mask, delta, 0.0), delta))
    return kept


def dare_linear(
    base, experts, *, masks, weight=None, density=None, normalize=False, rescale=True, lambda_=1.0,
    rule="paper", elect=False,
) -> Array:  # fmt: skip
    weights, densities = weights_of(weight, len(experts)), density or [1.0] * len(experts)
    deltas = _sampled(base, experts, masks, densities, rescale, rule)
    return _combine(base, deltas, weights, elect=elect, normalize=normalize, lambda_=lambda_)


def dare_ties(base, experts, **parameters) -> Array:
    return dare_linear(base, experts, elect=True, **parameters)


def della_linear(
    base, experts, *, masks, weight=None, density=None, epsilon=None, normalize=False,
    rescale=True, lambda_=1.0, rule="paper", elect=False,
) -> Array:  # fmt: skip
    count = len(experts)
    densities, widths = density or [1.0] * count, epsilon or [0.15] * count
    chances = [
        one if one >= 1 or one <= 0 else keep_probability(delta, one, width)
        for delta, one, width in zip(deltas_of(base, experts), densities, widths, strict=True)
    ]
    deltas = _sampled(base, experts, masks, chances, rescale, rule)
    weights = weights_of(weight, count)
    return _combine(base, deltas, weights, elect=elect, normalize=normalize, lambda_=lambda_)


def della(base, experts, *, normalize=True, **parameters) -> Array:
    return della_linear(base, experts, elect=True, normalize=normalize, **parameters)


# Selection


def sce(base, experts, *, density=1.0, rule="paper") -> Array:
    deltas = deltas_of(base, experts)
    size = deltas[0].size
    selected = np.full(deltas[0].shape, density >= 1)
    if 0 < density < 1 and size:
        variance = np.var(np.stack(deltas), axis=0)
        places = size if rule == "paper" else np.count_nonzero(variance)
        count = int(density * places)
        count = max(1, count) if rule == "paper" else count
        if count:
            selected = variance >= np.sort(variance.ravel())[::-1][count - 1]
    energy = np.array([np.sum(np.where(selected, one, 0.0) ** 2) / max(size, 1) for one in deltas])
    uniform = energy.sum() < 1e-6 if rule == "mergekit" else energy.sum() == 0
    weights = np.full(len(deltas), 1 / len(deltas)) if uniform else energy / energy.sum()
    merging = deltas if rule == "fuseai" else [np.where(selected, one, 0.0) for one in deltas]
    sign = np.where(sum(merging) >= 0, 1.0, -1.0)
    agree = [np.sign(one) == sign for one in merging]
    merged = sum(w * one * yes for w, one, yes in zip(weights, merging, agree, strict=True))
    total = sum(w * yes for w, yes in zip(weights, agree, strict=True))
    total = np.maximum(total, 1e-6) if rule == "mergekit" else np.where(total == 0, 1.0, total)
    return floats(base) + merged / total


def ram(base, experts, *, epsilon=1e-5, r=0.0, alpha=0.0) -> Array:
    deltas = deltas_of(base, experts)
    moved = [np.abs(delta) > epsilon for delta in deltas]
    count = sum(one.astype(int) for one in moved)
    merged = np.zeros_like(deltas[0])
    for delta, mine in zip(deltas, moved, strict=True):
        shared, alone = np.sum(mine & (count > 1)), np.sum(mine & (count == 1))
        boost = 1 + r * min(max(shared / max(alone, epsilon), 0.0), alpha)
        merged += np.where(mine, delta, 0.0) * np.where(count == 1, boost, 1 / np.maximum(count, 1))
    return floats(base) + merged


def ramplus_tl(base, experts, *, r=0.1, alpha=0.2, epsilon=1e-5) -> Array:
    return ram(base, experts, epsilon=epsilon, r=r, alpha=alpha)


def nearswap(base, experts, *, t) -> Array:
    (only,) = experts
    distance = np.abs(floats(only) - floats(base))
    share = np.clip(t / np.maximum(distance, 1e-6), 0, 1)
    return share * floats(only) + (1 - share) * floats(base)


def arcee_fusion(base, experts) -> Array:
    (delta,) = deltas_of(base, experts)
    chances = []
    for logits in (floats(experts[0]), floats(base)):
        raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
        chances.append(raised / raised.sum(axis=-1, keepdims=True) + 1e-8)
    p, q = chances
    importance = np.abs(delta) * np.sum(p * np.log(p / q), axis=-1, keepdims=True)
    ordered = np.sort(importance.ravel())
    low, middle, high = (ordered[int(x * (ordered.size - 1))] for x in (0.25, 0.5, 0.75))
    return floats(base) + delta * (importance >= middle + 1.5 * (high - low))


# Element-wise methods that mergekit does not have


def expo(base, experts, *, alpha=0.3) -> Array:
    (delta,) = deltas_of(base, experts)
    return floats(base) + (1 + alpha) * delta


def magmax(base, experts, *, lambda_=1.0) -> Array:
    deltas = np.stack(deltas_of(base, experts))
    chosen = np.argmax(np.abs(deltas), axis=0)  # the first of equals
    return floats(base) + lambda_ * np.take_along_axis(deltas, chosen[None], axis=0)[0]


def consensus(base, experts, *, mask_lambda=None, min_experts=2, lambda_=1.0) -> Array:
    deltas = deltas_of(base, experts)
    strictness = mask_lambda or [0.4] * len(deltas)
    total = sum(deltas)
    needed = sum(
        (np.abs(delta) >= one * np.abs(total - delta)).astype(int)
        for delta, one in zip(deltas, strictness, strict=True)
    )
    return floats(base) + lambda_ * np.where(needed >= min_experts, total, 0.0)


def varm(base, experts, *, lambda_=1.0) -> Array:
    deltas = deltas_of(base, experts)
    squares = [np.mean(delta**2) for delta in deltas]
    if sum(squares) == 0:
        return floats(base)
    weights = [one / sum(squares) for one in squares]
    return floats(base) + lambda_ * sum(w * d for w, d in zip(weights, deltas, strict=True))
