"""What every merge method must hold, tested for every file in merge/methods unasked."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from smelt.core import registry
from smelt.merge.method import Method, load_method, merge_arrays
from tests.merge.oracles import keep_probability

NAMES = registry.names("merge-method")
RANDOM = [name for name in NAMES if load_method(name).random]
DROPPING = [
    name for name in RANDOM if {"density", "rescale", "rule"} <= {*load_method(name).parameters}
]
TENSOR = "model.layers.0.mlp.up_proj.weight"  # a plain matrix, for those that look at names
ONE_EXPERT_IS_NOT_RETURNED = {
    "arcee_fusion": "takes a part of the change",
    "consensus": "two equal experts add up",
    "iso_c": "flattens the spectrum",
    "swudi": "filters directions",
    "wudi": "descends for a while",
}
SUMS = {
    "karcher", "model_stock", "multislerp", "nuslerp", "sce", "slerp", "varm",
}  # fmt: skip
"""Methods whose statistics are sums of floats, added block by block."""

Array = NDArray[Any]


def _count(method: Method, wanted: int = 3) -> int:
    least, most = method.num_experts
    return min(max(wanted, least), most or wanted)


def _tensors(
    method: Method, seed: int = 0, shape: tuple[int, ...] = (33, 17), dtype: Any = np.float32
) -> tuple[Array, list[Array]]:
    random = np.random.default_rng(seed)
    base = np.asarray(random.normal(size=shape) * 0.02)
    experts = [np.asarray(base + random.normal(size=shape) * 1e-3) for _ in range(_count(method))]
    return base.astype(dtype), [np.asarray(one.astype(dtype)) for one in experts]


def _extras(method: Method, experts: Sequence[Array]) -> list[Array | None]:
    """A statistics file's part for each expert; Gram matrices belong to matrices only."""
    random = np.random.default_rng(1)
    if method.extra == "fisher":
        return [random.gamma(1.0, size=one.shape).astype(np.float32) for one in experts]
    if method.extra != "gram" or experts[0].ndim != 2:
        return [None] * len(experts)
    columns = experts[0].shape[1]
    drawn = [random.normal(size=(3 * columns + 1, columns)) for _ in experts]
    return [(one.T @ one / len(one)).astype(np.float32) for one in drawn]


def _values(method: Method, count: int, **chosen: Any) -> dict[str, Any]:
    """Keyword values: those of the chosen ones that the method has, the rest its defaults."""
    values = {}
    for parameter in method.parameters.values():
        start = parameter.start(count)
        value = chosen.get(parameter.key, 1e-3 if start is None else start)
        if parameter.per_expert and not isinstance(value, list):
            value = [value] * count
        if not parameter.per_expert and isinstance(value, list):
            value = value[0]
        values[parameter.name] = value
    return values


def _run(
    method: Method,
    base: Array | None,
    experts: Sequence[Array],
    *,
    extras: Sequence[Array | None] | None = None,
    identities: Sequence[str] = (),
    name: str = TENSOR,
    seed: int = 0,
    device: str = "cpu",
    block_elements: int = 1 << 17,
    **chosen: Any,
) -> Array:
    return merge_arrays(
        method, base, experts, _values(method, len(experts), **chosen),
        extras=_extras(method, experts) if extras is None else extras, identities=identities,
        name=name, seed=seed, device=device, block_elements=block_elements,
    )  # fmt: skip


def assert_close(found: Array, expected: Array, size: float) -> None:
    """Equal to a small part of the size of a task vector."""
    limit = size + 4 * np.finfo(np.float32).eps * float(np.abs(expected).max(initial=0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("name", NAMES)
def test_experts_equal_to_base_give_base(name: str) -> None:
    method = load_method(name)
    base, experts = _tensors(method)
    same = [base.copy() for _ in experts]
    assert_close(_run(method, base, same), base, 0)
    if method.needs_base != True:  # noqa: E712 ("optional" is true as well)
        assert_close(_run(method, None, same), base, 0)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONE_EXPERT_IS_NOT_RETURNED])
def test_one_expert_alone_gives_that_expert(name: str) -> None:
    """With weight and density 1, and every part of the rule that bends it at its neutral value."""
    method = load_method(name)
    base, experts = _tensors(method)
    neutral = {"weight": 1.0, "density": 1.0, "scale": 1.0, "t": 1.0, "epsilon": 0.0, "alpha": 0.0}
    if method.num_experts[0] == 1:
        assert_close(_run(method, base, experts[:1], **neutral), experts[0], 1e-7)
        return
    if name == "model_stock":  # two that agree
        assert_close(_run(method, base, [experts[0]] * 2), experts[0], 1e-7)
        return
    found = _run(method, base, experts[:2], **neutral | {"weight": [0.0, 1.0]})
    assert_close(found, experts[1], 1e-7)


def test_the_exceptions_are_methods() -> None:
    assert set(ONE_EXPERT_IS_NOT_RETURNED) | SUMS <= set(NAMES)


@pytest.mark.parametrize("name", [one for one in NAMES if load_method(one).num_experts != (1, 1)])
def test_order_of_experts_does_not_matter(name: str) -> None:
    method = load_method(name)
    base, experts = _tensors(method)
    count = len(experts)
    lists = {"weight": [0.2, 0.5, 0.9][:count], "density": [0.3, 0.6, 1.0][:count]}
    lists |= {"gamma": [0.1, 0.0, 0.2][:count], "epsilon": [0.1, 0.2, 0.0][:count]}
    lists = {
        key: one
        for key, one in lists.items()
        if key in method.parameters and method.parameters[key].per_expert
    }
    alone = {"density": 0.4, "t": 0.25}
    extras, identities = _extras(method, experts), [f"model {place}" for place in range(count)]
    first = _run(
        method, base, experts, extras=extras, identities=identities, **alone | lists
    )  # fmt: skip
    turned = {key: one[::-1] for key, one in lists.items()}
    second = _run(
        method, base, experts[::-1], extras=extras[::-1], identities=identities[::-1],
        **alone | {"t": 0.75} | turned,
    )  # fmt: skip
    assert_close(second, first, 2e-6 if method.whole else 1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (5,), (4, 3), (0, 3), (3, 0), (2, 3, 4)])
def test_shape_and_type_are_kept(name: str, shape: tuple[int, ...], dtype: Any) -> None:
    method = load_method(name)
    base, experts = _tensors(method, shape=shape, dtype=dtype)
    before = [one.copy() for one in (base, *experts)]
    merged = _run(method, base, experts, density=0.5)
    assert (merged.shape, merged.dtype) == (shape, dtype)
    assert np.isfinite(merged).all()
    for one, other in zip(before, (base, *experts), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(60, 50), (7, 3, 20), (90,)])
def test_size_of_blocks_does_not_matter(name: str, shape: tuple[int, ...]) -> None:
    method = load_method(name)
    base, experts = _tensors(method, shape=shape)
    whole = _run(method, base, experts, density=0.5)
    for block_elements in (1, 130):
        parts = _run(method, base, experts, density=0.5, block_elements=block_elements)
        if name in SUMS:
            assert_close(parts, whole, 1e-8)
        else:
            np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_in_any_thread(name: str) -> None:
    method = load_method(name)
    base, experts = _tensors(method, shape=(70, 90))
    alone = _run(method, base, experts, density=0.3, epsilon=0.1)
    with ThreadPoolExecutor(3) as pool:
        together = pool.map(
            lambda _: _run(method, base, experts, density=0.3, epsilon=0.1, block_elements=1 << 17),
            range(6),
        )
        for one in together:
            np.testing.assert_array_equal(one, alone)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(33, 17), (50,), (3, 4, 5)])
@pytest.mark.parametrize("density", [0.5, 1.0])
def test_a_device_gives_the_same_numbers(name: str, shape: tuple[int, ...], density: float) -> None:
    """ "torch" runs the code of a device on the CPU."""
    method = load_method(name)
    base, experts = _tensors(method, shape=shape)
    rules = method.parameters["rule"].choices if "rule" in method.parameters else ("",)
    for rule in rules:
        chosen = {"density": density, "rule": rule, "rescale": True}
        expected = _run(method, base, experts, **chosen)
        found = _run(method, base, experts, device="torch", block_elements=200, **chosen)
        assert_close(found, expected, 2e-6 if method.whole else 1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_say_what_is_legal_and_searchable(name: str) -> None:
    method = load_method(name)
    for parameter in method.parameters.values():
        if parameter.span is None:
            assert parameter.default in parameter.choices
            continue
        span = parameter.span
        assert span.low <= span.search_low < span.search_high <= span.high
        start = parameter.start(3)
        assert start is None or span.low <= start <= span.high
        assert str(span)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_names_source_idea_use_and_evidence(name: str) -> None:
    assert registry.summary("merge-method", name).count(": ") == 1
    text = registry.doc("merge-method", name)
    assert re.search(r"\. \(\S.*\)$", text.splitlines()[0]), "(arXiv:NUMBER), or an author"
    labels = [line.partition(":")[0] for line in text.splitlines()]
    assert labels.count("When") == 1
    assert labels.count("Evidence") == 1


@pytest.mark.parametrize("name", [one for one in NAMES if "rule" in load_method(one).parameters])
def test_a_rule_is_the_papers_or_mergekits(name: str) -> None:
    rule = load_method(name).parameters["rule"]
    assert {"paper", "mergekit"} <= set(rule.choices)
    # The default is argued where the rule is described.
    text = " ".join(registry.doc("merge-method", name).split())
    assert f"`rule: {rule.default}` (the default" in text


# Random methods


def _survivors(method: Method, **chosen: Any) -> tuple[Array, Array]:
    """Task vector of one expert, without zeros, and what the method makes of it (float64)."""
    random = np.random.default_rng(3)
    delta = np.where(random.random((200, 300)) < 0.5, 1, -1) * random.uniform(0.5, 2, (200, 300))
    base = np.zeros_like(delta)
    return delta, _run(method, base, [base + delta], weight=1.0, **chosen)


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_depend_on_seed_expert_tensor_and_place_only(name: str) -> None:
    method = load_method(name)
    first = _survivors(method, density=0.5)[1] != 0
    for changed in ({"seed": 1}, {"identities": ["another"]}, {"name": "another"}):
        other = _survivors(method, density=0.5, **changed)[1] != 0
        assert 0.45 < (first == other).mean() < 0.62, changed
    for harmless in ({"block_elements": 1}, {"block_elements": 777}, {"device": "torch"}):
        same = _survivors(method, density=0.5, **harmless)[1] != 0
        np.testing.assert_array_equal(first, same)
    # Two experts draw differently, and what one draws does not depend on its place.
    base, zero = np.zeros((20, 30)), np.zeros((20, 30))
    ones = np.ones((20, 30))
    alone = _run(method, base, [ones], identities=["b"], weight=1.0, density=0.5)
    second = _run(method, base, [zero, ones], identities=["a", "b"], weight=1.0, density=0.5)
    np.testing.assert_array_equal(alone != 0, second != 0)


@pytest.mark.parametrize("name", DROPPING)
@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
def test_share_of_survivors_is_the_density(name: str, density: float) -> None:
    _, left = _survivors(load_method(name), density=density)
    # Five standard deviations of a mean of 60000 draws, at most.
    assert abs((left != 0).mean() - density) < 5 * np.sqrt(density * (1 - density) / left.size)


@pytest.mark.parametrize("name", DROPPING)
def test_survivors_are_scaled_by_the_rule(name: str) -> None:
    method = load_method(name)
    delta, left = _survivors(method, density=0.4, rule="paper")
    chance = keep_probability(delta, 0.4, 0.15) if "epsilon" in method.parameters else 0.4
    np.testing.assert_allclose(left, np.where(left != 0, delta / chance, 0), rtol=1e-15)
    delta, left = _survivors(method, density=0.4, rule="mergekit")
    kept = np.where(left != 0, delta, 0)
    np.testing.assert_allclose(left, kept * (np.abs(delta).sum() / np.abs(kept).sum()), rtol=1e-12)
    delta, left = _survivors(method, density=0.4, rescale=False)
    np.testing.assert_array_equal(left, np.where(left != 0, delta, 0))


@pytest.mark.parametrize("name", DROPPING)
def test_the_papers_rule_is_unbiased(name: str) -> None:
    method = load_method(name)
    drawn = [_survivors(method, density=0.4, seed=seed) for seed in range(40)]
    delta, mean = drawn[0][0], sum(left for _, left in drawn) / len(drawn)
    error = (mean - delta) / np.abs(delta)
    # The variance of one draw is (1 - p) / p, p at least 0.25; a mean over elements and draws.
    deviation = np.sqrt(3 / len(drawn))
    assert abs(error.mean()) < 5 * deviation / np.sqrt(error.size)
    assert np.abs(error).max() < 7 * deviation


@pytest.mark.parametrize("name", DROPPING)
def test_density_one_draws_nothing_and_density_zero_gives_the_base(name: str) -> None:
    method = load_method(name)
    delta, left = _survivors(method, density=1.0)
    np.testing.assert_array_equal(left, delta)
    delta, left = _survivors(method, density=0.0)
    np.testing.assert_array_equal(left, 0 * delta)
