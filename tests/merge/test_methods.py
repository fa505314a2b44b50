"""Merge methods against their formulas, written out independently in float64 numpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smelt.core.errors import UserError
from smelt.merge import ops
from smelt.merge.methods.linear import linear
from smelt.merge.methods.passthrough import passthrough
from smelt.merge.methods.sce import sce
from smelt.merge.methods.slerp import slerp
from smelt.merge.methods.task_arithmetic import task_arithmetic
from smelt.merge.methods.ties import ties

SHAPES = st.sampled_from([(1,), (7,), (3, 5), (2, 3, 4), (40, 30)])
WEIGHTS = st.floats(-1.5, 1.5, allow_subnormal=False).filter(lambda x: abs(x) > 1e-2)


@st.composite
def cases(draw: Any, least: int = 1, most: int = 4) -> tuple[Any, ...]:
    """Base, experts (on a coarse grid now and then, so that equal magnitudes occur), numbers."""
    shape = draw(SHAPES)
    count = draw(st.integers(least, most))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1.0, 1e-2, 1e-4]))
    base = random.normal(size=shape).astype(np.float32)
    deltas = random.normal(size=(count, *shape))
    if draw(st.booleans()):
        base = np.round(base * 4) / 4
        deltas, scale = np.round(deltas), 0.25
    experts = [(base + scale * delta).astype(np.float32) for delta in deltas]
    weights = draw(st.lists(WEIGHTS, min_size=count, max_size=count))
    densities = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    return base, experts, weights, densities


def _torch(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def _close(found: torch.Tensor, expected: np.ndarray, base: np.ndarray) -> None:
    size = max(1e-30, float(np.abs(expected).max()), float(np.abs(base).max()))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=0, atol=3e-7 * size)


def _delta(base: np.ndarray, expert: np.ndarray) -> np.ndarray:
    # The float32 difference is the task vector by definition; all that follows is float64.
    return (expert - base).astype(np.float64)


@given(cases(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_linear(case: tuple[Any, ...], normalize: bool) -> None:
    base, experts, weights, _ = case
    total = sum(weights) if normalize else 1.0
    if abs(total) < 1e-2:
        return
    expected = sum(w * e.astype(np.float64) for w, e in zip(weights, experts, strict=True)) / total
    found = linear(None, _torch(*experts), weight=weights, normalize=normalize)
    _close(found, expected, base * max(1.0, 1 / abs(total)))


def test_linear_refuses_weights_that_sum_to_zero() -> None:
    with pytest.raises(UserError, match="the weights sum to 0"):
        linear(None, [torch.ones(2)] * 2, weight=[1.0, -1.0])


@given(cases(2, 2), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_slerp(case: tuple[Any, ...], t: float) -> None:
    _, (a, b), _, _ = case
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    cosine = float((x * y).sum() / norms) if norms else 1.0
    if abs(abs(cosine) - 0.9995) < 1e-6:
        return
    if abs(cosine) > 0.9995:
        expected = (1 - t) * x + t * y
    else:
        omega = math.acos(cosine)
        expected = (math.sin((1 - t) * omega) * x + math.sin(t * omega) * y) / math.sin(omega)
    _close(slerp(None, _torch(a, b), t=t), expected, np.maximum(np.abs(a), np.abs(b)) * 30)


@given(cases(), st.floats(-2, 2), st.booleans())
@settings(deadline=None, max_examples=60)
def test_task_arithmetic(case: tuple[Any, ...], lambda_: float, normalize: bool) -> None:
    base, experts, weights, _ = case
    total = sum(weights) if normalize else 1.0
    if abs(total) < 1e-2:
        return
    start = base.astype(np.float64)
    vectors = [w * (e.astype(np.float64) - start) for w, e in zip(weights, experts, strict=True)]
    expected = start + lambda_ * sum(vectors) / total
    found = task_arithmetic(
        *_torch(base), _torch(*experts), weight=weights, lambda_=lambda_, normalize=normalize
    )
    _close(found, expected, base)


def _trim(delta: np.ndarray, density: float) -> np.ndarray:
    if density <= 0:
        return np.zeros_like(delta)
    k = delta.size if density >= 1 else max(1, int(density * delta.size))
    threshold = np.sort(np.abs(delta), axis=None)[::-1][k - 1]
    return np.where(np.abs(delta) >= threshold, delta, 0.0)


@given(cases(), st.booleans(), st.floats(0, 2))
@settings(deadline=None, max_examples=100)
def test_ties(case: tuple[Any, ...], normalize: bool, lambda_: float) -> None:
    base, experts, weights, densities = case
    trimmed = [_trim(_delta(base, e), d) for e, d in zip(experts, densities, strict=True)]
    # Weighted in float32 as the kernel does it: a tie of signs is a tie of float32 numbers.
    weighted = [
        (t.astype(np.float32) * np.float32(w)).astype(np.float64)
        for t, w in zip(trimmed, weights, strict=True)
    ]
    sign = np.where(sum(weighted) >= 0, 1.0, -1.0)
    agree = [np.sign(x) == sign for x in weighted]
    merged = sum(w * t * m for w, t, m in zip(weights, trimmed, agree, strict=True))
    if normalize:
        total = sum(w * m for w, m in zip(weights, agree, strict=True))
        if np.any((np.abs(total) < 1e-2) & (np.abs(total) > 0)):
            return  # weights that nearly cancel magnify float32 rounding without bound
        merged = merged / np.where(np.abs(total) < 1e-8, 1.0, total)
    expected = base + lambda_ * merged
    found = ties(
        *_torch(base), _torch(*experts), weight=weights, density=densities, lambda_=lambda_,
        normalize=normalize,
    )  # fmt: skip
    _close(found, expected, base)


@given(cases(2, 4), st.floats(0, 1), st.sampled_from(["mergekit", "paper"]))
@settings(deadline=None, max_examples=100)
def test_sce(case: tuple[Any, ...], density: float, variant: Any) -> None:
    base, experts, _, _ = case
    deltas = np.stack([_delta(base, e) for e in experts])
    variance = deltas.var(axis=0).astype(np.float32)
    count = int(np.count_nonzero(variance)) if variant == "mergekit" else variance.size
    ordered = np.sort(variance, axis=None)[::-1]
    k = max(1, int(density * count))
    if density <= 0:
        mask = np.zeros(variance.shape, dtype=bool)
    elif density >= 1:
        mask = np.ones(variance.shape, dtype=bool)
    else:
        mask = variance >= ordered[k - 1]
        gap = ordered[k - 1] - ordered[k] if k < ordered.size else 1.0
        if gap < 1e-5 * ordered[0]:
            return  # selection within float32 rounding: a tie, tested below with exact numbers
    energy = ((deltas * mask) ** 2).reshape(len(deltas), -1).sum(axis=1)
    if energy.sum() == 0:
        energy = np.ones(len(deltas))
    weights = (energy / energy.sum()).reshape(-1, *[1] * base.ndim)
    merging = deltas * mask if variant == "mergekit" else deltas
    sign = np.where(merging.sum(axis=0) >= 0, 1.0, -1.0)
    agree = (np.sign(merging) == sign) * weights
    total = agree.sum(axis=0)
    merged = (merging * agree).sum(axis=0) / np.where(total == 0, 1.0, total)
    found = sce(*_torch(base), _torch(*experts), density=density, variant=variant)
    _close(found, base + merged, base)


def test_sce_variants_differ_as_published() -> None:
    base = torch.zeros(4)
    experts = [torch.tensor([4.0, 1.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, 2.0, -1.0])]
    masked = sce(base, experts, density=0.5, variant="mergekit")
    # Variances 4, 0, 0, 1: half of the two non-zero positions is position 0; energies 16 and 0.
    assert masked.tolist() == [4.0, 0.0, 0.0, 0.0]
    whole = sce(base, experts, density=0.25, variant="paper")
    # A quarter of all four is position 0 again; the unmasked vectors merge with weights 1 and 0.
    assert whole.tolist() == [4.0, 1.0, 2.0, 1.0]


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6])
def test_sce_weights_follow_energy_at_any_scale(scale: float) -> None:
    """Hazard: mergekit turns to uniform weights below a mean square of 1e-6."""
    base = torch.zeros(1000)
    experts = [torch.full((1000,), scale), torch.full((1000,), 3 * scale)]
    # Energies 1 and 9: weights 0.1 and 0.9, mean 0.1 * 1 + 0.9 * 3.
    merged = sce(base, experts, density=1.0)
    np.testing.assert_allclose(merged.numpy(), 2.8 * scale, rtol=1e-5)


@pytest.mark.parametrize("variant", ["mergekit", "paper"])
def test_sce_returns_a_single_expert(variant: Any) -> None:
    base, expert = torch.randn(9), torch.randn(9)
    merged = sce(base, [expert], density=0.1, variant=variant)
    torch.testing.assert_close(merged, expert)


def test_passthrough_scales() -> None:
    expert = torch.randn(3, 4)
    assert torch.equal(passthrough(None, [expert], scale=[1.0]), expert)
    assert torch.equal(passthrough(None, [expert], scale=[0.5]), expert / 2)


def test_trim_keeps_ties_and_at_least_one() -> None:
    delta = torch.tensor([3.0, -2.0, 2.0, 1.0])
    assert ops.trim(delta, 0.5).tolist() == [3.0, -2.0, 2.0, 0.0]
    assert ops.trim(delta, 0.01).tolist() == [3.0, 0.0, 0.0, 0.0]
    assert ops.trim(delta, 0.0).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert ops.trim(delta, 1.0) is delta


def test_elect_sign_breaks_ties_upwards() -> None:
    weighted = [torch.tensor([1.0, -1.0, 0.0, -2.0]), torch.tensor([-1.0, -1.0, 0.0, 1.0])]
    assert ops.elect_sign(weighted).tolist() == [1.0, -1.0, 1.0, -1.0]


def test_stable_sum_equals_fsum() -> None:
    values = torch.randn(100_003, dtype=torch.float64)
    assert abs(ops.stable_sum(values) - math.fsum(values.tolist())) < 1e-9
    assert ops.stable_sum(torch.empty(0)) == 0.0
