"""What every merge method must hold, tested for every file in merge/methods unasked."""

from typing import Any

import pytest
import torch

from smelt.core import registry
from smelt.merge.method import Method, load_method, table

NAMES = registry.names("merge-method")


def _count(method: Method, wanted: int = 3) -> int:
    least, most = method.num_experts
    return min(max(wanted, least), most or wanted)


def _tensors(method: Method, seed: int = 0, shape: tuple[int, ...] = (33, 17)) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator) * 0.02
    deltas = [torch.randn(shape, generator=generator) * 1e-3 for _ in range(_count(method))]
    return [base, [base + delta for delta in deltas]]


def _values(method: Method, count: int, **chosen: float) -> dict[str, Any]:
    """The defaults, with given values for the parameters that the method has."""
    values = {}
    for parameter in method.parameters.values():
        value = chosen.get(parameter.key, parameter.start(count))
        if parameter.per_expert:
            value = [value] * count if not isinstance(value, list) else value
        values[parameter.name] = value
    return values


def _run(method: Method, base: Any, experts: list[Any], **chosen: Any) -> torch.Tensor:
    given = base if method.needs_base else None
    return method.function(given, experts, **_values(method, len(experts), **chosen))


@pytest.mark.parametrize("name", NAMES)
def test_experts_equal_to_base_give_base(name: str) -> None:
    method = load_method(name)
    base, experts = _tensors(method)
    merged = _run(method, base, [base.clone() for _ in experts])
    torch.testing.assert_close(merged, base, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_one_expert_with_full_weight_gives_that_expert(name: str) -> None:
    method = load_method(name)
    base, experts = _tensors(method)
    if method.num_experts[0] == 1:
        merged = _run(method, base, experts[:1], weight=1.0, density=1.0, scale=1.0)
    else:  # between two models: the far end is the second
        merged = _run(method, base, experts[:2], t=1.0)
        experts = experts[1:]
    torch.testing.assert_close(merged, experts[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_experts_does_not_matter(name: str) -> None:
    method = load_method(name)
    if method.num_experts[1] is not None:
        reverse = {"t": 0.75}
        if "t" not in method.parameters:
            assert method.num_experts == (1, 1), "what does order mean for this method?"
            return
        base, experts = _tensors(method)
        forward = _run(method, base, experts, t=0.25)
        torch.testing.assert_close(_run(method, base, experts[::-1], **reverse), forward)
        return
    base, experts = _tensors(method)
    weights, densities = [0.2, 0.5, 0.9], [0.3, 0.6, 1.0]
    chosen: dict[str, Any] = {"weight": weights, "density": densities}
    backward: dict[str, Any] = {"weight": weights[::-1], "density": densities[::-1]}
    if "density" in method.parameters and not method.parameters["density"].per_expert:
        chosen["density"] = backward["density"] = 0.4
    first = _run(method, base, experts, **chosen)
    # Decimal weights give exact ties of float32 rounding, which the last bit of float64 decides.
    swapped = _run(method, base, experts[::-1], **backward)
    torch.testing.assert_close(swapped, first, rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (5,), (4, 3), (2, 3, 4)])
def test_shape_and_dtype_are_kept_and_inputs_untouched(name: str, shape: tuple[int, ...]) -> None:
    method = load_method(name)
    base, experts = _tensors(method, shape=shape)
    before = [base.clone(), *(expert.clone() for expert in experts)]
    merged = _run(method, base, experts, density=0.5)
    assert (merged.shape, merged.dtype) == (torch.Size(shape), torch.float32)
    assert torch.isfinite(merged).all()
    assert all(torch.equal(a, b) for a, b in zip(before, [base, *experts], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_for_any_number_of_threads(name: str) -> None:
    method = load_method(name)
    base, experts = _tensors(method, shape=(700, 900))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(_run(method, base, experts, density=0.3, t=0.3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", NAMES)
def test_parameters_say_what_is_legal_and_searchable(name: str) -> None:
    method = load_method(name)
    assert method.parameters
    for parameter in method.parameters.values():
        if parameter.span is None:
            assert parameter.default in parameter.choices
            continue
        span = parameter.span
        assert span.low <= span.search_low < span.search_high <= span.high
        assert span.low <= parameter.start(3) <= span.high


@pytest.mark.parametrize("name", NAMES)
def test_docstring_names_source_and_idea(name: str) -> None:
    assert registry.summary("merge-method", name).count(": ") == 1
    assert any(word in registry.doc("merge-method", name) for word in ("arXiv:", "Shoemake"))


def test_table_has_one_row_per_method() -> None:
    rows = {row["method"]: row for row in table()}
    assert sorted(rows) == NAMES
    assert rows["ties"]["base"] == "needed"
    assert rows["slerp"]["experts"] == "2"
    assert rows["task_arithmetic"]["idea"].startswith("add the weighted task vectors")
    assert rows["linear"]["parameters"] == "weight, normalize"
