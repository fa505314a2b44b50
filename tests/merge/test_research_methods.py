"""The methods that mergekit lacks: against the oracles, numpy against torch, and their papers."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from smelt.core.errors import UserError
from smelt.merge import algebra
from smelt.merge.method import load_method, merge_arrays
from tests.merge import oracles
from tests.merge.oracles_matrix import interference

Array = NDArray[Any]
LAYER = "model.layers.0.mlp.up_proj.weight"
ON_MATRICES = ["iso_c", "swudi", "tsv_m", "wudi"]
ALL = [*ON_MATRICES, "consensus", "expo", "fisher", "magmax", "regmean", "varm"]
DEVICES = ["cpu", "torch"]


def models(shape: tuple[int, ...], count: int = 3, *, seed: int = 0, scale: float = 1e-3,
           kind: Any = np.float64) -> tuple[Array, list[Array]]:  # fmt: skip
    random = np.random.default_rng(seed)
    base = np.asarray(0.02 * random.standard_normal(shape), kind)
    sizes = scale * (1 + np.arange(count))
    return base, [np.asarray(base + one * random.standard_normal(shape), kind) for one in sizes]


def grams(columns: int, count: int = 3, *, tokens: int = 60, seed: int = 5) -> list[Array]:
    random = np.random.default_rng(seed)
    # Inputs with a mean and channels of very different size, as in real networks.
    sizes = 10.0 ** random.uniform(-2, 1.5, columns)
    inputs = [sizes * (random.standard_normal((tokens, columns)) + 1) for _ in range(count)]
    return [one.T @ one / tokens for one in inputs]


def merged(
    method: str, base: Array | None, experts: list[Array], *, name: str = LAYER, extras: Any = (),
    device: str = "cpu", block: int = 64, **values: Any,
) -> Array:  # fmt: skip
    return merge_arrays(
        load_method(method), base, experts, values, extras=extras, name=name, device=device,
        block_elements=block,
    )  # fmt: skip


def close(found: Array, expected: Array, base: Array, size: float = 1e-9) -> None:
    """Equal to a share of the merged task vector."""
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= size * np.linalg.norm(expected - base)


def everything(method: str, shape: tuple[int, ...], kind: Any) -> tuple[Array, list[Array], Any]:
    """Base, experts, extras for a method."""
    base, experts = models(shape, 1 if method == "expo" else 3, kind=kind)
    extras: Any = ()
    if method == "regmean" and len(shape) == 2:
        extras = [one.astype(kind) for one in grams(shape[1])]
    if method == "fisher":
        random = np.random.default_rng(9)
        extras = [(random.standard_normal(shape) ** 2).astype(kind) for _ in experts]
    return base, experts, extras


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
    close(merged(method, base, experts, extras=extras, device=device), expected, base)


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
    close(merged(method, base, experts, name=name, lambda_=0.5), mean, base)
    assert np.linalg.norm(merged(method, base, experts, lambda_=0.5) - mean) > 1e-3


@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5)])
@pytest.mark.parametrize("method", ON_MATRICES)
def test_what_is_no_matrix_gets_the_mean_task_vector(method: str, shape: tuple[int, ...]) -> None:
    base, experts = models(shape)
    close(merged(method, base, experts), np.mean(experts, axis=0), base)


@pytest.mark.parametrize("method", [*ON_MATRICES, "regmean"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [1, -1])
def test_what_is_no_number_stays_none(method: str, bad: float, where: int) -> None:
    """The engine then names the file; a decomposition would stop with a traceback."""
    base, experts, extras = everything(method, (24, 16), np.float32)
    ([*experts, base][where] if method != "regmean" else experts[1])[3, 4] = bad
    assert not np.isfinite(merged(method, base, experts, extras=extras)).all()


# Linear algebra


@pytest.mark.parametrize("shape", [(600, 40), (40, 600)])
def test_large_matrices_decompose_like_small_ones(shape: tuple[int, int]) -> None:
    """Above DIRECT by the Gram matrix: the same values, and the noise is left out."""
    random = np.random.default_rng(1)
    left = np.linalg.qr(random.standard_normal((shape[0], 30)))[0]
    right = np.linalg.qr(random.standard_normal((shape[1], 30)))[0]
    strengths = 10.0 ** -np.linspace(0, 3, 30)
    matrix = (left * strengths) @ right.T + 1e-9 * random.standard_normal(shape)
    parts = algebra.svd(matrix)
    assert parts.left.shape == (shape[0], 30)
    assert parts.right.shape == (30, shape[1])
    np.testing.assert_allclose(parts.values[:30], strengths, atol=1e-8)
    exact = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(algebra.polar(matrix), exact[0][:, :30] @ exact[2][:30], atol=1e-7)
    np.testing.assert_allclose((parts.left * parts.values[:30]) @ parts.right, matrix, atol=1e-7)
    two = algebra.svd(matrix, most=2)
    np.testing.assert_allclose(two.right, parts.right[:2], atol=1e-12)


@pytest.mark.parametrize("method", ON_MATRICES)
def test_large_matrices_equal_the_oracle(method: str) -> None:
    base, experts = models((24, 600), 2, kind=np.float32)
    oracle = {"swudi": oracles.wudi, "wudi": oracles.wudi_adam}.get(method)
    values = {"steps": 20} if method == "wudi" else {}
    expected = (oracle or getattr(oracles, method))(base, experts, **values)
    close(merged(method, base, experts, **values), expected, base, 1e-4)


def test_one_thread_is_kept_while_anyone_is_inside() -> None:
    def threads() -> list[int]:
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    before = threads()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with algebra.one_thread():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with algebra.one_thread():
        assert set(threads()) == {1}
    assert set(threads()) == {1}, "the other thread is still inside"
    leave.set()
    thread.join()
    assert threads() == before


@pytest.mark.parametrize("method", [*ON_MATRICES, "regmean"])
def test_same_bytes_for_any_number_of_threads(method: str) -> None:
    base, experts, extras = everything(method, (400, 530), np.float32)
    values = {"steps": 3} if method == "wudi" else {}
    found = []
    for count in (1, 2, 3):
        with threadpool_limits(count, user_api="blas"):
            found.append(merged(method, base, experts, extras=extras, **values).tobytes())
    assert found[0] == found[1] == found[2]


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
    close(merged("tsv_m", base, [expert, expert]), base + half, base)


def test_tsv_m_singular_values_are_those_kept() -> None:
    """After orthogonalisation the spectrum is that of the kept parts."""
    base, experts = models((30, 12), 3)
    kept = [np.linalg.svd(one - base, compute_uv=False)[:4] for one in experts]
    found = np.linalg.svd(merged("tsv_m", base, experts) - base, compute_uv=False)
    np.testing.assert_allclose(found, np.sort(np.concatenate(kept))[::-1], rtol=1e-9)


def test_tsv_m_with_more_experts_than_rank_and_with_an_unchanged_one() -> None:
    base, experts = models((2, 9), 3)
    close(merged("tsv_m", base, experts), np.mean(experts, axis=0), base)
    base, experts = models((30, 12), 3)
    experts[1] = base.copy()
    close(merged("tsv_m", base, experts), oracles.tsv_m(base, experts), base)


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
    close(found, base + point.detach().numpy(), base)


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
    close(merged("swudi", base, experts, time=1e9, rank_ratio=1.0), least, base)
    close(merged("wudi", base, experts, steps=3000), least, base, 1e-3)
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
    close(merged("swudi", base, experts, device=device, **values), expected, base, 1e-7)


# With statistics of data


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
