"""The oracles against values worked out by hand, and against what defines each method."""

import math

import numpy as np
import pytest

from tests.merge import oracles
from tests.merge.oracles_matrix import interference

BASE = np.array([[1.0, 1.0], [1.0, 1.0]])
# Task vectors [[4, -1], [2, 3]] and [[-2, -3], [1, 4]].
ONE = BASE + np.array([[4.0, -1.0], [2.0, 3.0]])
TWO = BASE + np.array([[-2.0, -3.0], [1.0, 4.0]])
PAIR = [ONE, TWO]
ONES = [1.0, 1.0]


def assert_adds(found: np.ndarray, change: object, base: np.ndarray = BASE) -> None:
    np.testing.assert_allclose(found - base, change, atol=1e-12)


def random_models(*shape: int, count: int = 3, seed: int = 0) -> tuple[np.ndarray, list]:
    random = np.random.default_rng(seed)
    base = random.normal(size=shape)
    return base, [base + 0.1 * random.normal(size=shape) for _ in range(count)]


def test_linear_divides_by_the_weights_unless_told() -> None:
    found = oracles.linear(None, PAIR, weight=[3.0, 1.0])
    np.testing.assert_allclose(found, [[3.5, -0.5], [2.75, 4.25]])
    found = oracles.linear(None, PAIR, weight=[3.0, 1.0], normalize=False)
    np.testing.assert_allclose(found, [[14.0, -2.0], [11.0, 17.0]])


def test_task_arithmetic() -> None:
    assert_adds(
        oracles.task_arithmetic(BASE, PAIR, weight=ONES, lambda_=0.5), [[1, -2], [1.5, 3.5]]
    )
    found = oracles.task_arithmetic(BASE, PAIR, weight=[2.0, 2.0], normalize=True)
    assert_adds(found, [[1, -2], [1.5, 3.5]])


def test_ties_trims_elects_and_averages() -> None:
    # Kept halves: [[4, 0], [0, 3]] and [[0, -3], [0, 4]]; no element has two opinions.
    half = {"weight": ONES, "density": [0.5, 0.5]}
    assert_adds(oracles.ties(BASE, PAIR, **half), [[4, -3], [0, 3.5]])
    # Untrimmed, element 0: 4 - 2 > 0 elects +, which leaves 4 alone.
    assert_adds(oracles.ties(BASE, PAIR, weight=ONES), [[4, -2], [1.5, 3.5]])
    assert_adds(oracles.ties(BASE, PAIR, weight=ONES, normalize=False), [[4, -4], [3, 7]])
    # With weights 1 and 3 the sign of element 0 turns: 4 - 6 < 0. Mean of -2 alone.
    assert_adds(oracles.ties(BASE, PAIR, weight=[1.0, 3.0]), [[-2, -2.5], [1.25, 3.75]])
    # The paper elects without weights.
    assert_adds(
        oracles.ties(BASE, PAIR, weight=[1.0, 3.0], rule="paper"), [[4, -2.5], [1.25, 3.75]]
    )


def test_ties_exact_tie_and_rescaling() -> None:
    base, pair = np.zeros(2), [np.array([1.0, 2.0]), np.array([-1.0, 2.0])]
    assert_adds(oracles.ties(base, pair), [1, 2], base)  # mergekit: a tie is a plus
    assert_adds(oracles.ties(base, pair, rule="paper"), [0, 2], base)
    # One of [3, 1] is kept and scaled to the norm of both: 3 * 4 / 3.
    found = oracles.ties(base, [np.array([3.0, 1.0])], weight=[1.0], density=[0.5], rescale=True)
    assert_adds(found, [4, 0], base)


@pytest.mark.parametrize(("density", "kept"), [(0.0, 0), (0.1, 1), (0.5, 2), (0.74, 2), (1.0, 4)])
def test_trim_counts(density: float, kept: int) -> None:
    assert oracles.keep_largest(np.array([4.0, -1, 2, 3]), density).sum() == kept


def test_trim_keeps_all_of_equal_magnitude() -> None:
    mask = oracles.keep_largest(np.array([1.0, -2, 2, 3]), 0.5)
    assert mask.tolist() == [False, True, True, True]


def test_breadcrumbs_keeps_a_band() -> None:
    delta = np.array([10.0, -9, 8, -7, 6, -5, 4, -3, 2, -1])
    assert np.flatnonzero(oracles.keep_band(delta, 0.5, 0.2)).tolist() == [2, 3, 4, 5, 6]
    # Density wins over gamma: to keep nine of ten, one outlier may go, and nothing small.
    assert np.flatnonzero(oracles.keep_band(delta, 0.9, 0.5)).tolist() == list(range(1, 10))
    assert oracles.keep_band(delta, 0.05, 0.0).sum() == 0
    assert oracles.keep_band(delta, 1.0, 0.5).all()
    base = np.zeros(10)
    found = oracles.breadcrumbs(base, [delta], weight=[2.0], density=[0.5], gamma=[0.2])
    assert_adds(found, [0, 0, 16, -14, 12, -10, 8, 0, 0, 0], base)


def test_dare_rescales_by_density_or_by_norm() -> None:
    base, expert = np.zeros(4), np.array([1.0, 2, 3, 4])
    some = {"masks": [np.array([True, False, True, False])], "weight": [1.0], "density": [0.25]}
    assert_adds(oracles.dare_linear(base, [expert], **some), [4, 0, 12, 0], base)
    found = oracles.dare_linear(base, [expert], **some, rule="mergekit")
    assert_adds(found, [2.5, 0, 7.5, 0], base)
    assert_adds(oracles.dare_linear(base, [expert], **some, rescale=False), [1, 0, 3, 0], base)
    every = {**some, "density": [1.0]}
    assert_adds(oracles.dare_linear(base, [expert], **every), expert, base)


def test_dare_ties_elects_on_weighted_survivors() -> None:
    masks = [np.ones((2, 2), dtype=bool), np.array([[True, False], [True, True]])]
    found = oracles.dare_ties(BASE, PAIR, masks=masks, weight=ONES, density=[0.999, 0.5])
    # Element 0: 4/0.999 - 2/0.5 > 0 leaves the first; element 1: the first alone.
    first = np.array([[4, -1], [2, 3]]) / 0.999
    assert_adds(found, first + np.array([[0, 0], [2, 8]]))


def test_della_ranks_within_rows() -> None:
    chance = oracles.keep_probability(np.array([[1.0, -3, 2], [5, 6, -4]]), 0.5, 0.1)
    np.testing.assert_allclose(chance, [[0.4, 0.6, 0.5], [0.5, 0.6, 0.4]])
    np.testing.assert_allclose(oracles.keep_probability(np.array([[7.0]]), 0.5, 0.1), [[0.5]])
    base, mask = np.zeros((1, 3)), np.array([[True, True, False]])
    expert = np.array([[1.0, -3.0, 2.0]])
    some = {"masks": [mask], "density": [0.5], "epsilon": [0.1]}
    found = oracles.della_linear(base, [expert], **some)
    assert_adds(found, [[1 / 0.4, -3 / 0.6, 0]], base)
    found = oracles.della_linear(base, [expert], **some, rule="mergekit")
    assert_adds(found, [[1.5, -4.5, 0]], base)


def test_dare_and_della_are_unbiased_by_the_papers_rule() -> None:
    base, (expert,) = random_models(6, 7, count=1)
    random = np.random.default_rng(3)
    for method, chance in (
        (oracles.dare_linear, np.full(base.shape, 0.4)),
        (oracles.della_linear, oracles.keep_probability(expert - base, 0.4, 0.2)),
    ):
        width = {"epsilon": [0.2]} if method is oracles.della_linear else {}
        draws = [
            method(
                base, [expert], masks=[random.random(base.shape) < chance], density=[0.4], **width
            )
            for _ in range(600)
        ]
        deviation = np.std(draws, axis=0) / math.sqrt(len(draws))
        assert np.all(np.abs(np.mean(draws, axis=0) - expert) < 5 * deviation + 1e-12)


def test_slerp_along_a_quarter_circle() -> None:
    first, second = np.array([2.0, 0.0]), np.array([0.0, 3.0])
    root = math.sqrt(0.5)
    np.testing.assert_allclose(oracles.slerp(first, [second], t=0.5), [2 * root, 3 * root])
    np.testing.assert_allclose(oracles.slerp(first, [second], t=0), first, atol=1e-15)
    np.testing.assert_allclose(oracles.slerp(first, [-2 * first], t=0.25), [0.5, 0.0])


def test_nuslerp_axes() -> None:
    first, second = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 2.0], [0.0, 3.0]])
    root = math.sqrt(0.5)
    # Rows: a quarter circle, and two parallel vectors. Columns: [2, 0] to 0, and [0, 1] to [2, 3].
    rows = oracles.nuslerp(None, [first, second], nuslerp_flatten=False)
    np.testing.assert_allclose(rows, [[2 * root, 2 * root], [0.0, 2.0]])
    angle = math.acos(3 / math.sqrt(13))
    share = math.sin(angle / 2) / math.sin(angle)
    columns = oracles.nuslerp(
        None, [first, second], nuslerp_flatten=False, nuslerp_row_wise=True
    )  # fmt: skip
    np.testing.assert_allclose(columns, [[2 * root, 2 * share], [0.0, 4 * share]])
    again = oracles.nuslerp(BASE, [BASE + first, BASE + second], nuslerp_flatten=False)
    np.testing.assert_allclose(again - BASE, rows)
    third = oracles.nuslerp(None, [first, first], weight=[1.0, 2.0])
    np.testing.assert_allclose(third, first)


def test_multislerp_and_karcher_halve_a_quarter_circle() -> None:
    first, second = np.array([2.0, 0.0]), np.array([0.0, 4.0])
    middle = 3 * math.sqrt(0.5)
    np.testing.assert_allclose(oracles.multislerp(None, [first, second]), middle, rtol=1e-7)
    np.testing.assert_allclose(oracles.karcher(None, [first, second]), middle)
    origin = np.array([5.0, 5.0])
    found = oracles.multislerp(origin, [origin + first, origin + second])
    np.testing.assert_allclose(found, 5 + middle, rtol=1e-7)
    np.testing.assert_allclose(oracles.multislerp(origin, [first], weight=[0.1]), first)


def test_karcher_mean_is_where_the_tangents_cancel() -> None:
    _, experts = random_models(4, 5, count=4)
    mean = oracles.karcher(None, experts, max_iter=100, tol=1e-13)
    unit = mean / np.linalg.norm(mean)
    pull = 0
    for expert in experts:
        other = expert / np.linalg.norm(expert)
        dot = np.sum(unit * other)
        pull = pull + math.acos(dot) / math.sqrt(1 - dot**2) * (other - dot * unit)
    assert np.linalg.norm(pull) < 1e-10


def test_model_stock_by_the_cosine() -> None:
    base = np.zeros(2)
    # cos 60 degrees = 1/2: t = 2 * 0.5 / 1.5 = 2/3 of the mean.
    pair = [np.array([1.0, 0.0]), np.array([0.5, math.sqrt(0.75)])]
    assert_adds(
        oracles.model_stock(base, pair), np.array([0.75, math.sqrt(0.75) / 2]) * 2 / 3, base
    )
    assert_adds(oracles.model_stock(base, [pair[0], -pair[0]]), [0, 0], base)
    tiny = [one * 1e-4 for one in pair]  # norms' product 1e-8, held at 1e-6: cos 1/200
    t = 2 * 0.005 / 1.005
    assert_adds(oracles.model_stock(base, tiny) / 1e-4, np.mean(pair, axis=0) * t, base)
    assert_adds(
        oracles.model_stock(base, tiny, rule="paper") / 1e-4, np.mean(pair, axis=0) * 2 / 3, base
    )


def test_sce_select_calculate_erase() -> None:
    base = np.zeros(4)
    pair = [np.array([4.0, 1, 0, 2]), np.array([-2.0, 1, 0, 4])]
    # Variances [9, 0, 0, 1]. Half of four: the thresholds 1 selects elements 0 and 3.
    # Energies (16 + 4)/4 and (4 + 16)/4: weights 1/2. Element 0: + wins, 4 alone. Element 3: 3.
    assert_adds(oracles.sce(base, pair, density=0.5), [4, 0, 0, 3], base)
    # mergekit counts half of the two that vary: element 0 only; energies 4 and 1.
    assert_adds(oracles.sce(base, pair, density=0.5, rule="mergekit"), [4, 0, 0, 0], base)
    # The authors' code uses the selection for the weights, 0.8 and 0.2, and merges everything.
    assert_adds(oracles.sce(base, pair, density=0.5, rule="fuseai"), [4, 1, 0, 2.4], base)
    small = [one * 1e-4 for one in (np.array([1.0, 3]), np.array([1.0, 1]))]
    base = np.zeros(2)
    # Energies 10 and 2: 1 and (3 * 10 + 2) / 12; mergekit calls that nothing and takes the mean.
    assert_adds(oracles.sce(base, small) / 1e-4, [1, 32 / 12], base)
    assert_adds(oracles.sce(base, small, rule="mergekit") / 1e-4, [1, 2], base)
    assert_adds(oracles.sce(base, small[:1], density=0.1) / 1e-4, [1, 3], base)
    assert_adds(oracles.sce(base, small[:1], density=0.1, rule="mergekit"), [0, 0], base)


def test_ram_adds_unique_and_averages_shared() -> None:
    base = np.zeros(4)
    pair = [np.array([4.0, 2, 1e-6, 3]), np.array([2.0, 1e-6, 1e-6, 0])]
    assert_adds(oracles.ram(base, pair), [3, 2, 0, 3], base)
    # Shared over unique: 1/2 for the first, capped at 0.2; the second has no unique element.
    assert_adds(oracles.ramplus_tl(base, pair), [3, 2 * 1.02, 0, 3 * 1.02], base)


def test_nearswap_moves_by_t_at_most() -> None:
    base = np.array([0.0, 0.0, 0.0])
    found = oracles.nearswap(base, [np.array([0.5, 4.0, -4.0])], t=1.0)
    np.testing.assert_allclose(found, [0.5, 1.0, -1.0])


def test_arcee_fusion_takes_outliers_of_importance() -> None:
    base = np.zeros((4, 2))
    expert = np.array([[0.1, 0.0], [0.2, 0.0], [0.1, 0.0], [3.0, 0.0]])
    # Importances of the second column are 0; quartiles 0, 0 and the place int(0.75 * 7) = 5.
    importance = []
    for row in expert:
        p = np.exp(row) / np.exp(row).sum()
        importance.append(row[0] * np.sum((p + 1e-8) * np.log((p + 1e-8) / (0.5 + 1e-8))))
    ordered = sorted([*importance, 0, 0, 0, 0])
    threshold = ordered[3] + 1.5 * (ordered[5] - ordered[1])
    kept = np.array(importance) >= threshold
    assert kept.tolist() == [False, True, False, True]
    assert_adds(oracles.arcee_fusion(base, [expert]), expert * kept[:, None], base)


def test_element_wise_methods_beyond_mergekit() -> None:
    assert_adds(oracles.expo(BASE, [ONE], alpha=0.5), [[6, -1.5], [3, 4.5]])
    assert_adds(oracles.magmax(BASE, PAIR, lambda_=0.5), [[2, -1.5], [1, 2]])
    # Sum [[2, -4], [3, 7]]. Each needs what is at least 0.4 of the rest: 4 of -2 yes, -2 of 4 yes;
    # -1 of -3 no; 2 of 1 and 1 of 2 yes; 3 of 4 and 4 of 3 yes.
    assert_adds(oracles.consensus(BASE, PAIR), [[2, 0], [3, 7]])
    assert_adds(oracles.consensus(BASE, PAIR, min_experts=0), [[2, -4], [3, 7]])
    # Mean squares 30 / 4 and 30 / 4.
    assert_adds(oracles.varm(BASE, PAIR), [[1, -2], [1.5, 3.5]])
    assert_adds(oracles.varm(BASE, [ONE, BASE]), ONE - BASE)


def test_fisher_trusts_the_important() -> None:
    fishers = [np.array([[3.0, 0.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 3.0]])]
    found = oracles.fisher(None, PAIR, fishers=fishers, floor=0.0)
    np.testing.assert_allclose(found, [[3.5, -1.0], [2.5, 4.75]])


def test_regmean_is_least_squares() -> None:
    random = np.random.default_rng(1)
    _, experts = random_models(3, 4)
    inputs = [random.normal(size=(20, 4)) * (1 + i) for i in range(3)]
    grams = [x.T @ x for x in inputs]
    found = oracles.regmean(None, experts, grams=grams, off_diagonal=1.0)
    outputs = [x @ w.T for x, w in zip(inputs, experts, strict=True)]
    best = np.linalg.lstsq(np.concatenate(inputs), np.concatenate(outputs), rcond=None)[0].T
    np.testing.assert_allclose(found, best, atol=1e-10)
    dead = [np.diag([1.0, 0, 0, 0])] * 3
    np.testing.assert_allclose(
        oracles.regmean(None, experts, grams=dead), np.mean(experts, axis=0), atol=1e-12
    )


def test_regmean_shrinks_what_is_off_the_diagonal() -> None:
    gram = np.array([[2.0, 1.0], [1.0, 2.0]])
    experts, grams = [np.array([[3.0, 1.0]]), np.array([[0.0, 0.0]])], [gram, np.diag([1.0, 2.0])]
    # Half of the 1 is left: [3, 1] @ [[2, .5], [.5, 2]] = [6.5, 3.5], and the sum of Grams is
    # [[3, .5], [.5, 4]] with determinant 11.75.
    expected = np.array([[6.5 * 4 - 3.5 * 0.5, 3.5 * 3 - 6.5 * 0.5]]) / 11.75
    found = oracles.regmean(None, experts, grams=grams, off_diagonal=0.5)
    np.testing.assert_allclose(found, expected)
    # Weights scale Grams; a weight of 0 leaves the other expert.
    found = oracles.regmean(None, experts, grams=grams, weight=[1.0, 0.0])
    np.testing.assert_allclose(found, experts[0], atol=1e-12)


def test_iso_c_flattens_the_spectrum() -> None:
    base, experts = random_models(5, 4)
    total = sum(experts) - 3 * base
    merged = oracles.iso_c(base, experts) - base
    mean = np.linalg.svd(total, compute_uv=False).mean()
    np.testing.assert_allclose(np.linalg.svd(merged, compute_uv=False), mean)
    # The same singular vectors: the product with the transposed total is symmetric and positive.
    product = merged.T @ total
    np.testing.assert_allclose(product, product.T, atol=1e-12)
    assert np.linalg.eigvalsh(product).min() > 0
    diagonal = np.diag([3.0, -1.0])
    assert_adds(oracles.iso_c(np.zeros((2, 2)), [diagonal]), np.diag([2.0, -2.0]), np.zeros((2, 2)))
    assert_adds(
        oracles.iso_c(np.zeros(2), [np.array([3.0, 1]), np.array([1.0, 1])]), [2, 1], np.zeros(2)
    )


def test_tsv_m_of_one_expert_and_of_orthogonal_experts() -> None:
    base, (expert, _) = random_models(6, 5, count=2)
    np.testing.assert_allclose(oracles.tsv_m(base, [expert]), expert, atol=1e-12)
    random = np.random.default_rng(5)
    left = np.linalg.qr(random.normal(size=(6, 4)))[0]
    right = np.linalg.qr(random.normal(size=(5, 4)))[0]
    pair = [
        base + left[:, i : i + 2] @ np.diag([2.0, 1]) @ right[:, i : i + 2].T for i in (0, 2)
    ]  # fmt: skip
    assert_adds(oracles.tsv_m(base, pair), sum(pair) - 2 * base, base)
    # Two equal experts: the better half of their common task vector.
    values = np.linalg.svd(expert - base)
    best = values[0][:, :2] * values[1][:2] @ values[2][:2]
    assert_adds(oracles.tsv_m(base, [expert, expert]), best, base)


def test_tsv_m_by_hand() -> None:
    # Rank one each, u1 = e1, u2 = (e1 + e2)/sqrt 2, v = e1, e2, strengths 2 and 1. The polar factor
    # of [u1 u2] turns both by the same angle, half of 45 degrees, to a right angle.
    second = np.array([1.0, 1.0]) / math.sqrt(2)
    pair = [np.outer([1.0, 0], [2.0, 0]), np.outer(second, [0.0, 1])]
    turn = math.radians(22.5)
    first = [math.cos(turn), -math.sin(turn)]
    other = [math.sin(turn), math.cos(turn)]
    expected = 2 * np.outer(first, [1.0, 0]) + np.outer(other, [0.0, 1])
    assert_adds(oracles.tsv_m(np.zeros((2, 2)), pair), expected, np.zeros((2, 2)))


def test_wudi_closed_form_ends_at_the_minimum() -> None:
    base, experts = random_models(4, 6)
    deltas = [expert - base for expert in experts]
    found = oracles.wudi(base, experts, time=1e9, rank_ratio=1.0) - base
    least = interference(found, deltas)
    random = np.random.default_rng(2)
    for _ in range(20):
        nudge = 1e-3 * random.normal(size=found.shape)
        assert interference(found + nudge, deltas) > least
    # No time, no movement; and on the way the interference falls.
    start = sum(deltas)
    np.testing.assert_allclose(oracles.wudi(base, experts, time=0.0) - base, start, atol=1e-12)
    on_the_way = oracles.wudi(base, experts, time=1.0, rank_ratio=1.0) - base
    assert least < interference(on_the_way, deltas) < interference(start, deltas)


def test_wudi_by_hand_truncates_and_filters() -> None:
    # Task vectors of one row. C = sum of t^T t / |t|^2 = diag(2, 1), D = sum of t = [2 + 4, 1].
    base = np.zeros((1, 2))
    experts = [np.array([[2.0, 0.0]]), np.array([[0.0, 1.0]]), np.array([[4.0, 0.0]])]
    # The sum is [6, 1], the solution D / C = [3, 1]; half the columns: the first direction only.
    reached = 1 - math.exp(-2 * 0.5)
    found = oracles.wudi(base, experts, time=0.5, rank_ratio=0.5)
    assert_adds(found, [[6 - 3 * reached, 1]], base)
    # From the mean [2, 1/3] both directions move, each at the pace of its eigenvalue.
    found = oracles.wudi(base, experts, time=0.5, rank_ratio=1.0, start="mean", lambda_=2.0)
    slower = 1 - math.exp(-0.5)
    assert_adds(found, [[2 * (2 + reached), 2 * (1 / 3 + 2 / 3 * slower)]], base)


def test_wudi_of_one_or_equal_experts_is_the_expert() -> None:
    base, (expert,) = random_models(4, 3, count=1)
    for start in ("sum", "mean"):
        found = oracles.wudi(
            base, [expert, expert], time=1e9, rank_ratio=1.0, start=start
        )  # fmt: skip
        np.testing.assert_allclose(found, expert, atol=1e-10)
    np.testing.assert_allclose(oracles.wudi(base, [expert]), expert, atol=1e-12)


def test_wudi_adam_first_step_and_descent() -> None:
    base, experts = random_models(4, 6)
    deltas = [expert - base for expert in experts]
    start = sum(deltas)
    # Adam's first step is the learning rate times the sign of the gradient, here by differences.
    moved = oracles.wudi_adam(base, experts, steps=1, learning_rate=1e-3) - base - start
    for place in [(0, 0), (1, 3), (3, 5)]:
        nudge = np.zeros_like(start)
        nudge[place] = 1e-6
        slope = interference(start + nudge, deltas) - interference(start - nudge, deltas)
        assert moved[place] == pytest.approx(-1e-3 * np.sign(slope), rel=1e-4)
    found = oracles.wudi_adam(base, experts, steps=200, learning_rate=1e-3) - base
    assert interference(found, deltas) < 0.5 * interference(start, deltas)


WITH_BASE = [
    "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "model_stock", "sce", "ram",
    "ramplus_tl", "magmax", "consensus", "varm", "iso_c", "tsv_m", "wudi", "wudi_adam",
]  # fmt: skip


@pytest.mark.parametrize("name", WITH_BASE)
@pytest.mark.parametrize("shape", [(4, 3), (5,), (2, 3, 4), (1, 1), (1,)])
def test_experts_equal_to_the_base_give_the_base(name: str, shape: tuple[int, ...]) -> None:
    base, _ = random_models(*shape)
    np.testing.assert_allclose(getattr(oracles, name)(base, [base, base]), base, atol=1e-14)
