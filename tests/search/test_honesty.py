"""Fitness split beside test split: means, gains and the warning, by hand."""

import random

import pytest

from smelt.search.honesty import Side, compare_sides


def side(start: list[float], best: list[float], names: str = "aabb") -> Side:
    return Side(list(names), [1 / len(start)] * len(start), start, best)


def test_rows_and_optimism_by_hand() -> None:
    fitness = side([0, 0, 1, 0], [1, 1, 1, 1])
    test = side([0, 1, 1, 0], [1, 1, 0, 0])
    record = compare_sides(fitness, test, "exact")
    assert record["rows"] == [
        {"name": "a", "start_fitness": 0.0, "best_fitness": 1.0, "start_test": 0.5,
         "best_test": 1.0},
        {"name": "b", "start_fitness": 0.5, "best_fitness": 1.0, "start_test": 0.5,
         "best_test": 0.0},
    ]  # fmt: skip
    assert record["optimism"] == pytest.approx(0.75 - 0.0)
    # Variance of a mean of gains drawn within domains: a has none, b has gains (0, 1): each
    # 2 items x (1/4 x 1/2)^2 x 2/(2-1); test: a (1, 0), b (-1, 0), the same each.
    spread = 2 * 2 * (0.25 * 0.5) ** 2
    assert record["error"] == pytest.approx(1.959964 * (spread + 2 * spread) ** 0.5, abs=1e-4)
    assert record["warning"] is None  # 4 items prove nothing
    many = side([0, 0, 1, 0] * 20, [1, 1, 1, 1] * 20, "aabb" * 20)
    record = compare_sides(many, side([0, 1, 1, 0] * 20, [1, 1, 0, 0] * 20, "aabb" * 20), "exact")
    assert "of a gain of 0.7500 on the fitness split, 0.7500" in record["warning"]
    assert "did not carry over" in record["warning"]


def test_noise_alone_warns_rarely() -> None:
    draw = random.Random(0)

    def one() -> bool:
        sides = [side([float(draw.random() < 0.5) for _ in range(80)],
                      [float(draw.random() < 0.6) for _ in range(80)], "ab" * 40)
                 for _ in range(2)]  # fmt: skip
        return compare_sides(*sides, "exact")["warning"] is not None

    assert sum(one() for _ in range(400)) < 400 * 0.06  # one-sided: 2.5 % expected


def test_without_a_test_split_it_says_so() -> None:
    record = compare_sides(side([0] * 4, [1] * 4), None, "exact")
    assert "no test split" in record["warning"]
    assert record["optimism"] is None
    assert "start_test" not in record["rows"][0]


def test_only_what_both_splits_have_is_compared() -> None:
    fitness = side([0, 0, 0, 0], [1, 1, 0, 0])
    record = compare_sides(fitness, side([0, 0], [1, 1], "aa"), "exact")
    assert (record["optimism"], record["warning"]) == (0.0, None)


def test_without_a_start_only_the_best_is_shown() -> None:
    fitness = Side(["a"], [1.0], None, [1.0])
    record = compare_sides(fitness, Side(["a"], [1.0], None, [0.5]), "exact")
    assert record["rows"] == [{"name": "a", "best_fitness": 1.0, "best_test": 0.5}]
    assert record["optimism"] is None
    assert "the start failed" in record["warning"]


def test_equal_sides_do_not_warn() -> None:
    same = side([0, 0, 0, 0], [0, 0, 0, 0])
    assert compare_sides(same, same, "exact")["warning"] is None
