"""Intervals and tests against formulas written out, hand cases and small simulations."""

import itertools
import math

import numpy as np
import pytest

from smelt.core.interval import wilson
from smelt.evals.statistics import (
    bca_limits,
    bootstrap_interval,
    difference_limits,
    interval,
    mcnemar,
    paired,
    pass_at,
    resampled_means,
    sign_flip,
)


def test_all_resamples_of_two_items() -> None:
    """Of items 0 and 1 the resampled mean is 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    means = resampled_means(np.array([[0.0], [1.0]]), seed=1)[:, 0]
    for value, chance in ((0.0, 0.25), (0.5, 0.5), (1.0, 0.25)):
        assert (means == value).mean() == pytest.approx(chance, abs=0.02)


def test_counting_rows_and_drawing_items_agree() -> None:
    """Few distinct rows are counted, many are drawn: both have mean and error of the mean."""
    generator = np.random.default_rng(0)
    few = generator.integers(0, 2, size=(300, 2)).astype(float)
    many = generator.random((300, 2))
    for rows in (few, many):
        means = resampled_means(rows, seed=2)
        assert means.shape == (10_000, 2)
        errors = rows.std(axis=0) / math.sqrt(len(rows))
        assert means.mean(axis=0) == pytest.approx(rows.mean(axis=0), abs=4 * errors.max() / 100)
        assert means.std(axis=0) == pytest.approx(errors, rel=0.03)
        centred = rows - rows.mean(axis=0)
        together = (centred[:, 0] * centred[:, 1]).mean() / len(rows)  # columns stay paired
        assert np.cov(means.T)[0, 1] == pytest.approx(together, abs=0.03 * errors.max() ** 2)
    assert np.array_equal(resampled_means(few, seed=2), resampled_means(few, seed=2))
    assert not np.array_equal(resampled_means(few, seed=2), resampled_means(few, seed=3))


def test_bca_against_the_formula_with_a_jackknife() -> None:
    """Efron's limits, with scipy's-free normal quantiles by bisection and a real jackknife."""
    values = np.array([0.0, 0.1, 0.1, 0.2, 0.9, 0.3, 0.0, 1.0, 0.15, 0.4])
    means = resampled_means(values[:, None], seed=5)[:, 0]

    def cdf(z: float) -> float:
        return 0.5 * math.erfc(-z / math.sqrt(2))

    def quantile(p: float) -> float:
        low, high = -9.0, 9.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if cdf(middle) < p else (low, middle)
        return low

    same = abs(means - values.mean()) < 1e-12
    bias = quantile((((means < values.mean()) & ~same).sum() + same.sum() / 2) / len(means))
    left_out = [np.delete(values, i).mean() for i in range(len(values))]
    gaps = [np.mean(left_out) - one for one in left_out]
    speed = sum(gap**3 for gap in gaps) / (6 * sum(gap**2 for gap in gaps) ** 1.5)
    wanted = []
    for p in (0.025, 0.975):
        z = bias + quantile(p)
        wanted.append(np.quantile(means, cdf(bias + z / (1 - speed * z))))
    assert bca_limits(values, means, 0.025, 0.975) == pytest.approx(tuple(wanted), abs=1e-12)
    assert speed > 0.05  # skewed to the right, so both limits lie above the percentiles
    assert bootstrap_interval(list(values), 5) == pytest.approx(tuple(wanted), abs=1e-12)
    plain = np.quantile(means, [0.025, 0.975])
    assert wanted[0] > plain[0]
    assert wanted[1] > plain[1]


def test_which_interval_a_score_gets() -> None:
    assert interval([1.0, 0.0, 1.0]) == wilson(2, 3)
    assert interval([]) == (0.0, 1.0)
    assert interval([0.5] * 10) == wilson(5, 10)  # not (0.5, 0.5)
    scores = [0.25, 0.5, 0.75, 1.0] * 10
    assert interval(scores, 3) == bootstrap_interval(scores, 3)
    with pytest.raises(ValueError, match="no scores"):
        bootstrap_interval([])


def test_intervals_cover_as_often_as_they_say() -> None:
    """Partial credit (beta-distributed, mean 0.2, skewed): 400 draws of 60 items."""
    generator = np.random.default_rng(7)
    hits = 0
    for trial in range(400):
        scores = generator.beta(0.5, 2.0, size=60)
        means = resampled_means(scores[:, None], trial, 1000)[:, 0]
        low, high = bca_limits(scores, means, 0.025, 0.975)
        hits += low <= 0.2 <= high
    assert 0.91 <= hits / 400 <= 0.98


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (5, 1), (3, 3), (2, 11)])
def test_mcnemar_is_the_binomial_test(only_first: int, only_second: int) -> None:
    """Every assignment of the differing items to the two models, counted one by one."""
    total = only_first + only_second
    at_least = abs(only_first - only_second)
    hits = sum(
        abs(2 * sum(heads) - total) >= at_least for heads in itertools.product((0, 1), repeat=total)
    )
    assert mcnemar(only_first, only_second) == pytest.approx(hits / 2**total)


def test_mcnemar_of_many_items() -> None:
    assert mcnemar(5, 1) == 0.21875  # (1 + 6) / 2^6 * 2
    assert mcnemar(5000, 5200) == pytest.approx(0.0487, abs=2e-4)  # normal: z = 199 / sqrt(10200)
    assert 0 < mcnemar(0, 1000) < 1e-300


def test_sign_flip_against_all_flips() -> None:
    differences = np.array([0.5, 0.25, -0.25, 0.75, 0.1, 0.0, 0.3, -0.1])
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in itertools.product((-1, 1), repeat=8)]  # fmt: skip
    exact = np.mean([one >= differences.sum() - 1e-9 for one in sums])
    assert sign_flip(differences, 1) == pytest.approx(exact, abs=0.015)
    assert sign_flip(np.zeros(5)) == 1.0
    assert sign_flip(np.full(40, 0.5)) == pytest.approx(1 / 10_001)


def test_paired_by_hand() -> None:
    """10 items: both right 3, only the first 1, only the second 5, none 1."""
    first = [1.0] * 3 + [1.0] + [0.0] * 5 + [0.0]
    second = [1.0] * 3 + [0.0] + [1.0] * 5 + [0.0]
    found = paired(first, second, 0)
    assert found["difference"] == 0.4
    assert (found["only_first"], found["only_second"], found["items"]) == (1, 5, 10)
    assert found["p"] == pytest.approx(0.2188)
    assert -0.3 < found["low"] <= 0.0 < 0.6 < found["high"] < 0.9
    turned = paired(second, first, 0)
    assert turned["difference"] == -0.4
    assert turned["p"] == found["p"]
    assert turned["low"] == pytest.approx(-found["high"], abs=0.11)  # one step of the grid
    with pytest.raises(ValueError, match="no pairs"):
        paired([1.0], [1.0, 0.0])


def test_models_that_agree_on_everything_are_not_proven_equal() -> None:
    """The limits of Bonett and Price: an item won and one lost are added."""
    found = paired([1.0, 0.0] * 50, [1.0, 0.0] * 50)
    half = 1.959964 * math.sqrt(2 / 102 / 102)
    assert found["p"] == 1.0
    assert (found["low"], found["high"]) == pytest.approx((-half, half), abs=1 / 102)
    assert found["low"] < 0 < found["high"]


@pytest.mark.parametrize(("won", "lost"), [(5, 0), (6, 0), (7, 0), (8, 1), (9, 1), (20, 8)])
def test_interval_and_test_say_the_same(won: int, lost: int) -> None:
    """Of 300 items: the interval leaves out 0 exactly where McNemar's p is below 0.05."""
    differences = np.array([[1.0]] * won + [[-1.0]] * lost + [[0.0]] * (300 - won - lost))
    ((low, _),) = difference_limits(differences)
    assert (low > 0) == (mcnemar(lost, won) < 0.05)


def test_columns_have_the_limits_they_have_alone() -> None:
    generator = np.random.default_rng(4)
    table = generator.integers(-1, 2, size=(200, 2)).astype(float)
    both = difference_limits(table, 1)
    for i in range(2):
        (alone,) = difference_limits(table[:, i : i + 1], 1)
        assert both[i] == pytest.approx(alone, abs=0.011)
    ((_, wider),) = difference_limits(table[:, :1], 1, high=1 - 0.025 / 3)
    assert wider > both[0][1]


def test_paired_intervals_cover() -> None:
    """Models of accuracy 0.5 and 0.6 whose answers go together, 100 items; and equal models."""
    generator = np.random.default_rng(3)
    hits = raised = 0
    for trial in range(300):
        draw = generator.random(100)
        differences = np.where(draw < 0.08, -1.0, np.where(draw < 0.26, 1.0, 0.0))
        ((low, high),) = difference_limits(differences[:, None], trial)
        hits += low <= 0.1 <= high
        null = np.where(draw < 0.13, -1.0, np.where(draw < 0.26, 1.0, 0.0))
        raised += mcnemar(int((null < 0).sum()), int((null > 0).sum())) < 0.05
    assert 0.92 <= hits / 300 <= 0.985
    assert raised / 300 <= 0.06  # a test that says "real" of equal models at most so often


def test_pass_at_k_against_all_choices() -> None:
    for samples, correct, k in ((5, 2, 1), (5, 2, 3), (6, 0, 4), (6, 6, 2), (7, 3, 6)):
        answers = [True] * correct + [False] * (samples - correct)
        chosen = list(itertools.combinations(answers, k))
        wanted = sum(any(some) for some in chosen) / len(chosen)
        assert pass_at(samples, correct, k) == pytest.approx(wanted)
    for bad in ((5, 6, 1), (5, 2, 0), (5, 2, 6)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at(*bad)
