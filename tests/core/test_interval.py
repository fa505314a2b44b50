"""Intervals against published values and formulas written out independently."""

import math

import pytest

from smelt.core.interval import difference_interval, mean_interval, student, wilson


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Newcombe 1998, Table I, method 3 (score without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_newcombes_table(correct: int, total: int, low: float, high: float) -> None:
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_solve_the_score_equation() -> None:
    low, high = wilson(37, 90)
    for end in (low, high):
        score = (37 / 90 - end) / math.sqrt(end * (1 - end) / 90)
        assert abs(score) == pytest.approx(1.959963984540054)


def test_wilson_edges() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    for pair in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="correct of"):
            wilson(*pair)


def test_student_by_hand() -> None:
    # mean 2, standard deviation 1, t(2) = 4.3027
    half = 4.3027 / math.sqrt(3)
    assert student([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half))
    assert student([0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="two seeds"):
        student([1.0])


def test_mean_of_equal_cells_shrinks_by_root_n() -> None:
    assert mean_interval([(0.5, 0.4, 0.7)]) == pytest.approx((0.4, 0.7))
    low, high = mean_interval([(0.5, 0.4, 0.7)] * 4)
    assert (low, high) == pytest.approx((0.45, 0.6))


def test_difference_equals_newcombes_method_10() -> None:
    # Newcombe 1998 (Interval estimation for the difference), Table II: 56/70 - 48/80.
    one, other = (56 / 70, *wilson(56, 70)), (48 / 80, *wilson(48, 80))
    assert difference_interval(one, other) == pytest.approx((0.0524, 0.3339), abs=5e-5)
