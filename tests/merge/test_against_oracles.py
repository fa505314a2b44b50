"""Every method that mergekit has against its oracle in plain float64 (oracles.py)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smelt.core.seed import seed_for
from smelt.merge import ops
from smelt.merge.method import load_method, merge_arrays
from tests.merge import oracles

Array = NDArray[Any]
Draw = Callable[[Any], Any]

SHAPES = [(1,), (2,), (9,), (64,), (1, 1), (1, 7), (6, 1), (5, 8), (31, 33), (2, 3, 4), (3, 1, 5)]
GRID = st.integers(-12, 12).map(lambda x: x / 8)  # weights whose products with deltas are exact
POSITIVE = st.integers(1, 12).map(lambda x: x / 8)
SHARES = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 0.1]), st.floats(0.01, 1))


@dataclass(frozen=True)
class Case:
    """Base and experts; what they are about in words."""

    kind: str
    base: Array
    experts: list[Array]

    @property
    def deltas(self) -> list[Array]:
        return oracles.deltas_of(self.base, self.experts)


@st.composite
def cases(
    draw: Any, least: int = 1, most: int = 4, *, dtype: Any = None, ties: bool = True
) -> Case:
    """Tensors on a grid so fine and so small that float32 differences are exact.

    Without `ties` no two numbers are equal or opposite but by chance.
    """
    kinds = ["fine", "zero rows", "signed zeros", "subnormal"]
    kinds += ["coarse", "equal", "opposite", "unchanged", "zeros"] if ties else []
    kind = draw(st.sampled_from(kinds))
    shape = draw(st.sampled_from(SHAPES))
    count = draw(st.integers(least, most))
    dtype = dtype or draw(st.sampled_from([np.float32, np.float64]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    base = random.integers(-(2**12), 2**12, size=shape) / 2**10
    deltas = random.integers(-(2**14), 2**14, size=(count, *shape)) / 2**20
    if kind == "coarse":
        deltas = random.integers(-2, 3, size=(count, *shape)) / 2**10
    if kind == "equal":
        deltas[:] = deltas[0]
    if kind == "opposite":
        deltas[1:] = -deltas[0]
    if kind == "unchanged":
        deltas[:] = 0
    if kind == "zeros":
        base, deltas = base * 0, deltas * 0
    if kind == "zero rows":
        rows = random.random(shape[:-1]) < 0.5
        base[rows], deltas[:, rows] = 0, 0
    if kind == "signed zeros":
        base = np.where(random.random(shape) < 0.5, -0.0, 0.0)
        deltas = np.where(random.random((count, *shape)) < 0.3, -0.0, deltas)
    if kind == "subnormal":
        smallest = float(np.finfo(dtype).smallest_subnormal)
        base, deltas = base * 2**10 * smallest, deltas * 2**20 * smallest
    experts = [np.asarray((base + one).astype(dtype)) for one in deltas]
    return Case(kind, np.asarray(base.astype(dtype)), experts)


def _assert_agrees(
    found: Array, expected: Array, case: Case, relative: float, roundings: float = 2
) -> None:
    """Equal to a small part of the largest task vector, and to the rounding of the result."""
    assert found.dtype == case.base.dtype
    assert found.shape == expected.shape
    with np.errstate(over="ignore"):
        size = max(float(np.abs(one).max(initial=0)) for one in case.deltas)
    whole = max(float(np.abs(one).max(initial=0)) for one in [case.base, *case.experts, expected])
    rounding = float(np.finfo(found.dtype).eps) * whole
    rounding += 4 * float(np.finfo(found.dtype).smallest_subnormal)
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * size + roundings * rounding)


def _exact(case: Case) -> float:
    return 1e-12 if case.base.dtype == np.float64 else 1e-5


def _spherical(case: Case) -> tuple[float, float]:
    """For angles: the part of a task vector, and how many roundings of the result."""
    return (1e-8, 64.0) if case.base.dtype == np.float64 else (1e-3, 2.0)


def _merge(name: str, case: Case, values: dict[str, Any], *, base: bool = True) -> Array:
    return merge_arrays(load_method(name), case.base if base else None, case.experts, values)


def _lists(data: Any, case: Case, **strategies: Any) -> dict[str, list[float]]:
    """One drawn value per expert for each name."""
    count = len(case.experts)
    return {
        name: data.draw(st.lists(one, min_size=count, max_size=count), label=name)
        for name, one in strategies.items()
    }


def _far_from_zero(weights: list[float]) -> bool:
    """Else a mean magnifies rounding without bound."""
    return abs(sum(weights)) >= 0.25


def _cosines(one: Array, other: Array, axis: int | None = None) -> Array:
    """Of two tensors or of their vectors along an axis; 0 where one has no length."""
    dots = np.sum(one * other, axis=axis)
    norms = np.sqrt(np.sum(one**2, axis=axis) * np.sum(other**2, axis=axis))
    return np.asarray(dots / np.where(norms > 0, norms, 1))


Check = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@Check
@given(cases(), st.booleans(), st.data())
def test_linear(case: Case, normalize: bool, data: Any) -> None:
    values: dict[str, Any] = _lists(data, case, weight=GRID)
    assume(not normalize or _far_from_zero(values["weight"]))
    values["normalize"] = normalize
    found = _merge("linear", case, values)
    magnified = max(1.0, 1 / abs(sum(values["weight"]) if normalize else 1))
    _assert_agrees(found, oracles.linear(None, case.experts, **values), case, 0, 8 * magnified)


@Check
@given(cases(1, 1), st.floats(-3, 3))
def test_passthrough(case: Case, scale: float) -> None:
    found = _merge("passthrough", case, {"scale": [scale]})
    _assert_agrees(found, oracles.passthrough(None, case.experts, scale=scale), case, 0)


@Check
@given(cases(2, 2), st.floats(0, 1))
def test_slerp(case: Case, t: float) -> None:
    expected = oracles.slerp(None, case.experts, t=t)
    _assert_agrees(_merge("slerp", case, {"t": t}), expected, case, *_spherical(case))


def test_slerp_at_right_angles_beyond_and_of_zeros() -> None:
    one, other = np.array([3.0, 0.0]), np.array([0.0, 4.0])
    half = np.sqrt(0.5)
    for pair, expected in (
        ([one, other], [3 * half, 4 * half]),
        ([one, -one], [0.0, 0.0]),  # opposite: linear
        ([one, 0 * one], [3 * half, 0.0]),  # a tensor of zeros counts as orthogonal
        ([0 * one, 0 * one], [0.0, 0.0]),
    ):
        found = merge_arrays(load_method("slerp"), None, pair, {"t": 0.5})
        np.testing.assert_allclose(found, expected, atol=1e-15)


@Check
@given(cases(), st.booleans(), st.floats(-2, 2), st.data())
def test_task_arithmetic(case: Case, normalize: bool, lambda_: float, data: Any) -> None:
    values: dict[str, Any] = _lists(data, case, weight=GRID)
    assume(not normalize or _far_from_zero(values["weight"]))
    values |= {"normalize": normalize, "lambda_": lambda_}
    expected = oracles.task_arithmetic(case.base, case.experts, **values)
    # As base * (1 - sum of weights) + weighted experts, both as large as the weights make them.
    total = abs(lambda_) * sum(map(abs, values["weight"]))
    total /= abs(sum(values["weight"])) if normalize else 1
    found = _merge("task_arithmetic", case, values)
    _assert_agrees(found, expected, case, _exact(case), 4 * (1 + total))


FAMILY = ["ties", "breadcrumbs", "breadcrumbs_ties"]


@Check
@pytest.mark.parametrize("name", FAMILY)
@given(data=st.data())
def test_selection_by_magnitude(name: str, data: Any) -> None:
    rescale = data.draw(st.booleans(), label="rescale")
    # With other scales than the oracle's to the last bit, an exact tie of signs is one no more.
    case = data.draw(cases(ties=not rescale))
    values: dict[str, Any] = _lists(data, case, weight=GRID, density=SHARES)
    if name != "ties":
        values |= _lists(data, case, gamma=st.one_of(st.just(0.01), st.floats(0, 1)))
    values["normalize"] = data.draw(st.booleans(), label="normalize")
    if values["normalize"]:
        positive = _lists(data, case, weight=POSITIVE)
        values |= positive
    values |= {"rescale": rescale, "lambda_": data.draw(st.floats(-2, 2), label="lambda")}
    if name != "breadcrumbs":
        values["rule"] = data.draw(st.sampled_from(["mergekit", "paper"]), label="rule")
    expected = getattr(oracles, name)(case.base, case.experts, **values)
    largest = max([1.0, *(_l1(name, case, values))]) if rescale else 1.0
    _assert_agrees(_merge(name, case, values), expected, case, 40 * largest * _exact(case))


def _l1(name: str, case: Case, values: dict[str, Any]) -> list[float]:
    """The factors of rescaling, which magnify rounding with everything else."""
    found = []
    for place, delta in enumerate(case.deltas):
        density = values["density"][place]
        kept = (
            oracles.keep_largest(delta, density)
            if name == "ties"
            else oracles.keep_band(delta, density, values["gamma"][place])
        )
        mass = float(np.abs(delta[kept]).sum())
        found.append(float(np.abs(delta).sum()) / mass if mass else 1.0)
    return found


def _masks(case: Case, chances: list[Any], seed: int) -> list[Array]:
    masks = []
    for place, chance in enumerate(chances):
        key = seed_for(seed, str(place), "")
        numbers = ops.uniform(key, 0, case.base).astype(np.float64)
        masks.append(numbers < chance)
    return masks


@Check
@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear"])
@given(data=st.data())
def test_random_selection(name: str, data: Any) -> None:
    case = data.draw(cases(ties=False))
    values: dict[str, Any] = _lists(data, case, weight=GRID)
    seed = data.draw(st.integers(0, 1000), label="seed")
    chances: list[Any]
    if name.startswith("della"):
        inner = st.sampled_from([0.0, 0.3, 0.5, 0.75, 1.0])
        values |= _lists(data, case, density=inner, epsilon=st.sampled_from([0.0, 0.1, 0.2]))
        chances = [
            oracles.keep_probability(delta, density, epsilon)
            for delta, density, epsilon in zip(
                case.deltas, values["density"], values["epsilon"], strict=True
            )
        ]
    else:
        values |= _lists(data, case, density=SHARES)
        chances = list(values["density"])
    values["normalize"] = data.draw(st.booleans(), label="normalize")
    if values["normalize"]:
        values |= _lists(data, case, weight=POSITIVE)
    values |= {
        "rescale": data.draw(st.booleans(), label="rescale"),
        "lambda_": data.draw(st.floats(-2, 2), label="lambda"),
        "rule": data.draw(st.sampled_from(["mergekit", "paper"]), label="rule"),
    }
    masks = _masks(case, chances, seed)
    expected = getattr(oracles, name)(case.base, case.experts, masks=masks, **values)
    found = merge_arrays(load_method(name), case.base, case.experts, values, seed=seed)
    _assert_agrees(found, expected, case, 40 * _magnified(masks, values, case) * _exact(case))


def _magnified(masks: list[Array], values: dict[str, Any], case: Case) -> float:
    """The largest factor on a survivor, which magnifies rounding with everything else."""
    largest = 1.0
    for mask, density, delta in zip(masks, values["density"], case.deltas, strict=True):
        if values["rescale"] and 0 < density < 1:
            kept = float(np.abs(delta[mask]).sum())
            both = [1 / max(density - 0.2, 1e-9), float(np.abs(delta).sum()) / kept if kept else 1]
            largest = max(largest, *both)
    return largest


@Check
@given(cases(), SHARES, st.sampled_from(["paper", "mergekit", "fuseai"]))
def test_sce(case: Case, density: float, rule: str) -> None:
    assume(case.kind != "subnormal")  # their squares are 0
    # Variances that are equal but for rounding: float64 may part them, float32 rarely does.
    ordered = np.sort(np.var(np.stack(case.deltas), axis=0).ravel())
    near = (np.diff(ordered) <= 1e-6 * ordered[1:]) & (ordered[1:] > 0)
    if case.base.dtype == np.float32:
        near &= np.diff(ordered) > 0
    assume(not 0 < density < 1 or not near.any())
    values = {"density": density, "rule": rule}
    expected = oracles.sce(case.base, case.experts, **values)
    _assert_agrees(_merge("sce", case, values), expected, case, 4 * _exact(case))


@Check
@given(cases(2, 2), st.sampled_from(["flat", "rows", "columns"]), st.booleans(), st.data())
def test_nuslerp(case: Case, vectors: str, based: bool, data: Any) -> None:
    values: dict[str, Any] = _lists(data, case, weight=POSITIVE)
    values |= {"nuslerp_flatten": vectors == "flat", "nuslerp_row_wise": vectors == "columns"}
    assume(case.kind != "subnormal")
    one, other = case.deltas if based else [np.asarray(x, np.float64) for x in case.experts]
    axes = {"flat": None, "rows": -1, "columns": 0}
    # At an angle of pi rounding decides between the arc and the line.
    assume(_cosines(one, other, axes[vectors] if one.ndim > 1 else None).min() > -1 + 1e-9)
    expected = oracles.nuslerp(case.base if based else None, case.experts, **values)
    found = _merge("nuslerp", case, values, base=based)
    _assert_agrees(found, expected, case, *_spherical(case))


@Check
@given(cases(), st.booleans(), st.booleans(), st.data())
def test_multislerp(case: Case, based: bool, normalize_weights: bool, data: Any) -> None:
    values: dict[str, Any] = _lists(data, case, weight=POSITIVE)
    values["normalize_weights"] = normalize_weights
    assume(case.kind != "subnormal")
    points = case.deltas if based else [np.asarray(one, np.float64) for one in case.experts]
    weighted = [w * p / max(float(np.linalg.norm(p)), 1e-300)
                for w, p in zip(values["weight"], points, strict=True)]  # fmt: skip
    length = float(np.linalg.norm(sum(weighted)))
    assume(len(points) == 1 or length > 1e-3 or not any(one.any() for one in points))
    expected = oracles.multislerp(case.base if based else None, case.experts, **values)
    found = _merge("multislerp", case, values, base=based)
    _assert_agrees(found, expected, case, *_spherical(case))


@Check
@given(cases(1, 4), st.integers(0, 12))
def test_karcher(case: Case, max_iter: int) -> None:
    experts = [np.asarray(one, np.float64) for one in case.experts]
    # Opposite directions have no mean, and rounding decides what is opposite.
    assume(all(_cosines(a, b) > -1 + 1e-6 for a in experts for b in experts))
    expected = oracles.karcher(None, case.experts, max_iter=max_iter)
    found = _merge("karcher", case, {"max_iter": float(max_iter)})
    _assert_agrees(found, expected, case, *_spherical(case))


@Check
@given(cases(2, 4), st.booleans(), st.sampled_from(["mergekit", "paper"]))
def test_model_stock(case: Case, filter_wise: bool, rule: str) -> None:
    assume(rule != "paper" or case.kind != "subnormal")  # their squares are 0
    values: dict[str, Any] = {"filter_wise": filter_wise, "rule": rule}
    expected = oracles.model_stock(case.base, case.experts, **values)
    # Near 1 + (n - 1) c = 0 the formula has a pole.
    assume(float(np.abs(expected - case.base).max(initial=0)) < 0.1)
    _assert_agrees(_merge("model_stock", case, values), expected, case, *_spherical(case))


@Check
@given(cases(), st.sampled_from([1e-9, 1e-5, 3e-4, 1e-2]))
def test_ram(case: Case, epsilon: float) -> None:
    expected = oracles.ram(case.base, case.experts, epsilon=epsilon)
    _assert_agrees(_merge("ram", case, {"epsilon": epsilon}), expected, case, _exact(case))


@Check
@given(cases(), st.sampled_from([1e-5, 3e-4, 1e-2]), st.floats(0, 2), st.floats(0, 3))
def test_ramplus_tl(case: Case, epsilon: float, r: float, alpha: float) -> None:
    values = {"epsilon": epsilon, "r": r, "alpha": alpha}
    expected = oracles.ramplus_tl(case.base, case.experts, **values)
    _assert_agrees(
        _merge("ramplus_tl", case, values), expected, case, (1 + r * alpha) * _exact(case)
    )


@Check
@given(cases(1, 1), st.sampled_from([0.0, 1e-7, 1e-4, 5e-3, 1.0]))
def test_nearswap(case: Case, t: float) -> None:
    expected = oracles.nearswap(case.base, case.experts, t=t)
    _assert_agrees(_merge("nearswap", case, {"t": t}), expected, case, _exact(case))


@Check
@given(cases(1, 1))
def test_arcee_fusion(case: Case) -> None:
    # Else equal importances differ by rounding, and one of them is the threshold.
    assume(case.kind != "coarse")
    expected = oracles.arcee_fusion(case.base, case.experts)
    _assert_agrees(_merge("arcee_fusion", case, {}), expected, case, _exact(case))
