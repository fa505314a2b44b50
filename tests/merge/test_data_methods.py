"""RegMean and Fisher: merges by statistics of data, against least squares and by hand."""

import numpy as np
import pytest

from smelt.core.errors import UserError
from tests.merge import oracles
from tests.merge.research import DEVICES, grams, merged, models


@pytest.mark.parametrize("device", DEVICES)
def test_regmean_minimises_the_squared_errors_of_activations(device: str) -> None:
    random = np.random.default_rng(7)
    _, experts = models((9, 12), 2)
    weights, tokens = [0.7, 0.3], 40
    inputs = [random.standard_normal((tokens, 12)) for _ in experts]
    found = merged(
        "regmean", None, experts, extras=[one.T @ one / tokens for one in inputs], weight=weights,
        off_diagonal=1.0, device=device,
    )  # fmt: skip
    scaled = [np.sqrt(w) * one for w, one in zip(weights, inputs, strict=True)]
    outputs = [one @ expert.T for one, expert in zip(scaled, experts, strict=True)]
    best = np.linalg.lstsq(np.concatenate(scaled), np.concatenate(outputs), rcond=None)[0].T
    np.testing.assert_allclose(found, best, atol=1e-12)


def test_regmean_uses_the_weighted_mean_where_nobody_has_inputs() -> None:
    """Fewer tokens than inputs, one input always zero: directions without data stay at the mean."""
    random = np.random.default_rng(8)
    _, experts = models((9, 12), 2, scale=1.0)
    inputs = [random.standard_normal((3, 12)) * (np.arange(12) != 5) for _ in experts]
    extras = [one.T @ one / 3 for one in inputs]
    weights = [0.75, 0.25]
    mean = 0.75 * experts[0] + 0.25 * experts[1]
    for off_diagonal in (0.9, 1.0):
        found = merged(
            "regmean", None, experts, extras=extras, weight=weights, off_diagonal=off_diagonal
        )
        np.testing.assert_array_equal(found[:, 5], mean[:, 5])
        expected = oracles.regmean(
            None, experts, grams=extras, weight=weights, off_diagonal=off_diagonal
        )
        np.testing.assert_allclose(found, expected, atol=1e-10)
    unused = np.linalg.svd(np.concatenate(inputs))[2][6:]
    np.testing.assert_allclose(found @ unused.T, mean @ unused.T, atol=1e-12)


def test_regmean_with_statistics_of_float32_and_few_tokens_stays_near_the_experts() -> None:
    """Rounding of a singular Gram matrix must not be inverted: it would be divided by itself."""
    random = np.random.default_rng(10)
    _, experts = models((30, 40), 2, scale=1.0, kind=np.float32)
    extras = [one.T @ one for one in random.standard_normal((2, 10, 40)).astype(np.float32)]
    found = merged("regmean", None, experts, extras=extras, off_diagonal=1.0)
    exact = [one.astype(np.float64) for one in extras]
    assert np.linalg.eigvalsh(sum(exact))[0] < 0, "the rounding to float32 shows"
    assert np.linalg.norm(found) < 2 * np.linalg.norm(experts[1])


@pytest.mark.parametrize("device", DEVICES)
def test_regmean_without_correlations_weighs_columns(device: str) -> None:
    _, experts = models((9, 12), 3)
    extras = grams(12)
    sizes = np.stack([np.diag(one) for one in extras])
    expected = np.einsum("noi,ni->oi", np.stack(experts), sizes / sizes.sum(0))
    found = merged("regmean", None, experts, extras=extras, off_diagonal=0.0, device=device)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_without_statistics_the_weighted_mean(method: str) -> None:
    _, experts = models((9, 12), 2)
    full = grams(12, 2) if method == "regmean" else [abs(one) for one in experts]
    expected = 0.2 * experts[0] + 0.8 * experts[1]
    for extras in ([None, None], [full[0], None]):
        found = merged(method, None, experts, extras=extras, weight=[1.0, 4.0])
        np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert (
        abs(merged(method, None, experts, extras=full, weight=[1.0, 4.0]) - expected).max() > 1e-4
    )


@pytest.mark.parametrize("method", ["regmean", "fisher"])
@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -0.5]])
def test_statistics_need_positive_weights(method: str, weights: list[float]) -> None:
    _, experts = models((9, 12), 2)
    with pytest.raises(UserError, match="weight"):
        merged(method, None, experts, weight=weights)


def test_regmean_refuses_the_gram_matrix_of_another_layer() -> None:
    _, experts = models((9, 12), 2)
    with pytest.raises(UserError, match="12 inputs"):
        merged("regmean", None, experts, extras=grams(9, 2))
    broken = grams(12, 2)
    broken[1][0, 0] = np.nan
    with pytest.raises(UserError, match="no numbers"):
        merged("regmean", None, experts, extras=broken)


@pytest.mark.parametrize("device", DEVICES)
def test_fisher_is_the_weighted_mean_per_element(device: str) -> None:
    experts = [np.array([[1.0, 1.0, 1.0]]), np.array([[5.0, 5.0, 5.0]])]
    extras = [np.array([[3.0, 0.0, 0.0]]), np.array([[1.0, 2.0, 0.0]])]
    plain = merged("fisher", None, experts, extras=extras, floor=0.0, device=device)
    # 3:1, all to the second, and nobody's: the mean.
    np.testing.assert_allclose(plain, [[2.0, 5.0, 3.0]], rtol=1e-15)
    weighted = merged(
        "fisher", None, experts, extras=extras, floor=0.0, weight=[0.5, 1.5], device=device
    )
    np.testing.assert_allclose(weighted, [[3.0, 5.0, 4.0]], rtol=1e-15)
    floored = merged("fisher", None, experts, extras=extras, floor=1.0, device=device)
    np.testing.assert_allclose(floored, [[(4 + 10) / 6, (1 + 15) / 4, 3.0]], rtol=1e-15)


def test_fisher_takes_the_rows_of_each_block() -> None:
    _, experts = models((20, 20), 2)
    extras = [one**2 for one in experts]
    small = merged("fisher", None, experts, extras=extras, block=40)
    np.testing.assert_array_equal(small, merged("fisher", None, experts, extras=extras, block=9999))
    np.testing.assert_allclose(small, oracles.fisher(None, experts, fishers=extras), rtol=1e-13)


@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight"])
def test_regmean_gives_vocabularies_the_weighted_mean_in_any_blocks(name: str) -> None:
    _, experts = models((20, 12), 2)
    expected = 0.2 * experts[0] + 0.8 * experts[1]
    for block in (24, 9999):
        found = merged(
            "regmean", None, experts, name=name, extras=grams(12, 2), weight=[1.0, 4.0], block=block
        )
        np.testing.assert_allclose(found, expected, rtol=1e-14)
