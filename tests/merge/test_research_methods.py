"""The methods that mergekit lacks: against the oracles, numpy against torch, and their papers."""

from typing import Any

import numpy as np
import pytest
import torch

from smelt.core.errors import UserError
from tests.merge import oracles
from tests.merge.oracles_matrix import interference
from tests.merge.research import (
    ALL,
    DEVICES,
    ON_MATRICES,
    Array,
    assert_close,
    everything,
    grams,
    merged,
    models,
)  # fmt: skip

# All of them


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (20, 20)])
@pytest.mark.parametrize("method", ALL)
def test_float64_equals_the_oracle(method: str, shape: tuple[int, int], device: str) -> None:
    base, experts, extras = everything(method, shape, np.float64)
    named = {"fisher": {"fishers": extras}, "regmean": {"grams": extras}}.get(method, {})
    oracle = {"swudi": oracles.wudi, "wudi": oracles.wudi_adam}.get(method)
    expected = (oracle or getattr(oracles, method))(base, experts, **named)
    assert np.linalg.norm(expected - base) > 1e-4 * np.linalg.norm(base)
    assert_close(merged(method, base, experts, extras=extras, device=device), expected, base)


@pytest.mark.parametrize("shape", [(24, 16), (7,), (3, 4, 5)])
@pytest.mark.parametrize("method", ALL)
def test_float32_gives_the_same_with_torch(method: str, shape: tuple[int, ...]) -> None:
    base, experts, extras = everything(method, shape, np.float32)
    found = [merged(method, base, experts, extras=extras, device=one) for one in DEVICES]
    assert found[0].dtype == found[1].dtype == np.float32
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5 * float(abs(base).max()))


@pytest.mark.parametrize("method", ALL)
def test_experts_equal_to_the_base_give_the_base(method: str) -> None:
    base, experts, extras = everything(method, (24, 16), np.float32)
    found = merged(method, base, [base.copy() for _ in experts], extras=extras)
    np.testing.assert_array_equal(found, base)


@pytest.mark.parametrize("method", [one for one in ALL if one not in ("expo", "consensus")])
def test_order_of_experts_does_not_matter(method: str) -> None:
    base, experts, extras = everything(method, (24, 16), np.float64)
    backward = merged(method, base, experts[::-1], extras=extras[::-1])
    np.testing.assert_allclose(backward, merged(method, base, experts, extras=extras), atol=1e-12)


@pytest.mark.parametrize("method", ["tsv_m", "wudi", "swudi", "magmax", "varm", "regmean"])
def test_one_expert_comes_back(method: str) -> None:
    base, (expert,) = models((24, 16), 1, kind=np.float32)
    extras = [grams(16, 1)[0].astype(np.float32)] if method == "regmean" else ()
    np.testing.assert_allclose(merged(method, base, [expert], extras=extras), expert, atol=5e-9)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize("method", ON_MATRICES)
def test_vocabularies_get_the_mean_task_vector(method: str, name: str) -> None:
    base, experts = models((24, 16))
    mean = base + 0.5 * (np.mean(experts, axis=0) - base)
    assert_close(merged(method, base, experts, name=name, lambda_=0.5), mean, base)
    assert np.linalg.norm(merged(method, base, experts, lambda_=0.5) - mean) > 1e-3


@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5)])
@pytest.mark.parametrize("method", ON_MATRICES)
def test_what_is_no_matrix_gets_the_mean_task_vector(method: str, shape: tuple[int, ...]) -> None:
    base, experts = models(shape)
    assert_close(merged(method, base, experts), np.mean(experts, axis=0), base)


@pytest.mark.parametrize("method", [*ON_MATRICES, "regmean"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [1, -1])
def test_what_is_no_number_stays_none(method: str, bad: float, where: int) -> None:
    """The engine then names the file; a decomposition would stop with a traceback."""
    base, experts, extras = everything(method, (24, 16), np.float32)
    ([*experts, base][where] if method != "regmean" else experts[1])[3, 4] = bad
    assert not np.isfinite(merged(method, base, experts, extras=extras)).all()


# Each paper's own claim


@pytest.mark.parametrize("device", DEVICES)
def test_expo_extrapolates(device: str) -> None:
    base, expert = np.array([[0.0, 1.0, 2.0]]), np.array([[1.0, 1.0, 0.0]])
    found = merged("expo", base, [expert], alpha=0.5, device=device)
    np.testing.assert_allclose(found, [[1.5, 1.0, -1.0]], atol=1e-15)
    np.testing.assert_array_equal(merged("expo", base, [expert], alpha=0.0), expert)


@pytest.mark.parametrize("device", DEVICES)
def test_magmax_by_loop_and_ties_go_to_the_first(device: str) -> None:
    base, experts = models((6, 7), 4, scale=1.0)
    base, experts = np.round(base), [np.round(one) for one in experts]
    for lambda_ in (1.0, 0.25):
        expected = base.copy()
        for place in np.ndindex(base.shape):
            best = max(
                (one[place] - base[place] for one in experts), key=abs
            )  # the first of equals
            expected[place] += lambda_ * best
        found = merged("magmax", base, experts, lambda_=lambda_, device=device)
        np.testing.assert_allclose(found, expected, atol=1e-14)
    zero, two = np.zeros((1, 2)), [np.array([[1.0, -1.0]]), np.array([[-1.0, 1.0]])]
    np.testing.assert_array_equal(merged("magmax", zero, two, device=device), two[0])


@pytest.mark.parametrize("device", DEVICES)
def test_consensus_by_hand(device: str) -> None:
    """Task vectors (4, 1, 0), (2, 1, 0), (-1, 5, 3): sums 5, 7, 3. With 0.5 each needs an element
    if it is at least half of what the others sum to:
    4 >= 0.5 and 2 >= 1.5, not 1 >= 3 : two; 5 >= 1, not 1 >= 3 twice: one; 3 >= 0, 0 < 1.5: one."""
    base = np.full((1, 3), 10.0)
    experts = [base + np.array([one]) for one in ([4.0, 1, 0], [2.0, 1, 0], [-1.0, 5, 3])]
    run = {"device": device, "mask_lambda": 0.5}
    found = [merged("consensus", base, experts, min_experts=k, **run) for k in range(4)]
    assert found[0].tolist() == found[1].tolist() == [[15.0, 17.0, 13.0]]
    assert found[2].tolist() == [[15.0, 10.0, 10.0]]
    assert found[3].tolist() == [[10.0, 10.0, 10.0]]
    half = merged("consensus", base, experts, min_experts=2, lambda_=0.5, **run)
    assert half.tolist() == [[12.5, 10.0, 10.0]]
    own = merged(
        "consensus", base, experts, min_experts=3, device=device, mask_lambda=[0.5, 0.5, 0.1]
    )
    assert own.tolist() == [[15.0, 10.0, 10.0]]
    own = merged(
        "consensus", base, experts, min_experts=3, device=device, mask_lambda=[0.1, 0.1, 0.1]
    )
    assert own.tolist() == [[15.0, 17.0, 10.0]]
    with pytest.raises(UserError, match="4 of 3 experts"):
        merged("consensus", base, experts, min_experts=4)


@pytest.mark.parametrize("device", DEVICES)
def test_varm_weighs_by_squares(device: str) -> None:
    base = np.zeros((4, 50))
    experts = [base + 1.0, base + 3.0, base.copy()]
    # Squares 1, 9, 0: weights 0.1, 0.9, 0, also where one expert did not change.
    np.testing.assert_allclose(merged("varm", base, experts, device=device), 2.8, rtol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_iso_c_makes_singular_values_equal_to_their_mean(shape: Any, device: str) -> None:
    base, experts = models(shape)
    summed = sum(experts) - 3 * base
    found = merged("iso_c", base, experts, device=device) - base
    mean = np.linalg.svd(summed, compute_uv=False).mean()
    np.testing.assert_allclose(np.linalg.svd(found, compute_uv=False), mean, rtol=1e-10)
    left, _, right = np.linalg.svd(summed, full_matrices=False)
    np.testing.assert_allclose(left.T @ found @ right.T, mean * np.eye(12), atol=1e-10)


def test_iso_c_leaves_out_what_no_expert_changed() -> None:
    """A sum of rank 2: U V^T of the other directions would be chance; the mean is over all 12."""
    random = np.random.default_rng(3)
    base = random.standard_normal((30, 12))
    delta = random.standard_normal((30, 2)) @ random.standard_normal((2, 12))
    found = np.linalg.svd(merged("iso_c", base, [base + delta]) - base, compute_uv=False)
    mean = np.linalg.svd(delta, compute_uv=False).sum() / 12
    np.testing.assert_allclose(found[:2], mean, rtol=1e-9)
    assert found[2] < 1e-9


def test_tsv_m_adds_experts_that_do_not_overlap() -> None:
    """Rank 4 of 12 each in orthogonal directions: nothing interferes and nothing is lost."""
    random = np.random.default_rng(4)
    left = np.linalg.qr(random.standard_normal((30, 12)))[0]
    right = np.linalg.qr(random.standard_normal((12, 12)))[0]
    strengths = np.repeat([5.0, 2.0, 1.0], 4) * (1 + np.arange(12) / 100)
    deltas = [
        (left[:, k : k + 4] * strengths[k : k + 4]) @ right[:, k : k + 4].T for k in (0, 4, 8)
    ]
    base = random.standard_normal((30, 12))
    found = merged("tsv_m", base, [base + one for one in deltas])
    np.testing.assert_allclose(found, base + sum(deltas), atol=1e-12)


def test_tsv_m_of_two_equal_experts_is_the_half_rank_copy() -> None:
    base, (expert,) = models((30, 12), 1)
    left, values, right = np.linalg.svd(expert - base, full_matrices=False)
    half = (left[:, :6] * values[:6]) @ right[:6]
    assert_close(merged("tsv_m", base, [expert, expert]), base + half, base)


def test_tsv_m_singular_values_are_those_kept() -> None:
    """After orthogonalisation the spectrum is that of the kept parts."""
    base, experts = models((30, 12), 3)
    kept = [np.linalg.svd(one - base, compute_uv=False)[:4] for one in experts]
    found = np.linalg.svd(merged("tsv_m", base, experts) - base, compute_uv=False)
    np.testing.assert_allclose(found, np.sort(np.concatenate(kept))[::-1], rtol=1e-9)


def test_tsv_m_with_more_experts_than_rank_and_with_an_unchanged_one() -> None:
    base, experts = models((2, 9), 3)
    assert_close(merged("tsv_m", base, experts), np.mean(experts, axis=0), base)
    base, experts = models((30, 12), 3)
    experts[1] = base.copy()
    assert_close(merged("tsv_m", base, experts), oracles.tsv_m(base, experts), base)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("start", ["sum", "mean"])
def test_wudi_is_torch_adam_on_the_papers_loss(start: str, device: str) -> None:
    base, experts = models((10, 8))
    deltas = torch.tensor(np.stack(experts) - base)
    point = (deltas.sum(0) if start == "sum" else deltas.mean(0)).requires_grad_()
    adam = torch.optim.Adam([point], lr=1e-5)
    for _ in range(300):
        adam.zero_grad()
        products = (point - deltas) @ deltas.transpose(1, 2)
        loss = (products.square().sum((1, 2)) / deltas.square().sum((1, 2))).sum()
        loss.backward()
        adam.step()
    found = merged("wudi", base, experts, start=start, device=device)
    assert_close(found, base + point.detach().numpy(), base)


def test_wudi_and_swudi_lower_the_interference_and_meet_at_the_minimum() -> None:
    base, experts = models((20, 12))
    deltas = [one - base for one in experts]
    normal = sum(one.T @ one / np.sum(one**2) for one in deltas)
    right = sum(one @ one.T @ one / np.sum(one**2) for one in deltas)
    least = base + right @ np.linalg.inv(normal)

    def loss(found: Array) -> float:
        return interference(found - base, deltas)

    begin = loss(base + sum(deltas))
    adam = [loss(merged("wudi", base, experts, steps=count)) for count in (0, 30, 100, 300)]
    assert adam[0] == pytest.approx(begin)
    assert adam == sorted(adam, reverse=True)
    closed = [loss(merged("swudi", base, experts, time=t, rank_ratio=1.0)) for t in (0, 1, 10, 100)]
    assert closed[0] == pytest.approx(begin)
    assert closed == sorted(closed, reverse=True)
    assert_close(merged("swudi", base, experts, time=1e9, rank_ratio=1.0), least, base)
    assert_close(merged("wudi", base, experts, steps=3000), least, base, 1e-3)
    assert loss(least) < 0.5 * begin


def test_swudi_leaves_small_eigenvalues_at_the_start() -> None:
    base, experts = models((20, 12))
    deltas = [one - base for one in experts]
    normal = sum(one.T @ one / np.sum(one**2) for one in deltas)
    vectors = np.linalg.eigh(normal)[1]
    found = merged("swudi", base, experts, time=1e9, rank_ratio=0.5) - base
    np.testing.assert_allclose(found @ vectors[:, :6], sum(deltas) @ vectors[:, :6], atol=1e-12)
    assert abs((found - sum(deltas)) @ vectors[:, 6:]).max() > 1e-3


@pytest.mark.parametrize("device", DEVICES)
def test_swudi_of_thin_experts_equals_the_oracle(device: str) -> None:
    """Rank 2 each: C has a null space, where the start is zero as well."""
    random = np.random.default_rng(6)
    base = random.standard_normal((20, 16))
    experts = [
        base + random.standard_normal((20, 2)) @ random.standard_normal((2, 16)) for _ in range(3)
    ]
    expected = oracles.wudi(base, experts, start="mean", rank_ratio=0.65, lambda_=0.7)
    values = {"start": "mean", "rank_ratio": 0.65, "lambda_": 0.7}
    assert_close(merged("swudi", base, experts, device=device, **values), expected, base, 1e-7)
