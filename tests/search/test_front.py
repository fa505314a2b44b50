"""Pareto front and hypervolume, against counting and by hand."""

import itertools
import random

import pytest

from smelt.search.front import Member, dominates, hypervolume, joined


def test_dominates() -> None:
    assert dominates([1, 2], [1, 1])
    assert not dominates([1, 1], [1, 1])
    assert not dominates([2, 0], [1, 1])


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_front_is_what_nobody_dominates_in_any_order(objectives: int) -> None:
    draw = random.Random(objectives)
    points = [[float(draw.randrange(8)) for _ in range(objectives)] for _ in range(60)]
    front: list[Member] = []
    for number, point in enumerate(points):
        front = joined(front, Member(number, [0.5], point))
    expected = {
        tuple(p) for p in points if not any(dominates(other, p) for other in points)
    }  # fmt: skip
    assert {tuple(member.objectives) for member in front} == expected
    assert len(front) == len(expected)  # of equals, one
    for member in front:
        assert points.index(member.objectives) == member.candidate  # the first of them


def test_hypervolume_by_hand() -> None:
    assert hypervolume([[3.0], [5.0], [1.0]], [2.0]) == 3.0
    assert hypervolume([[2.0, 1.0], [1.0, 2.0]], [0.0, 0.0]) == 3.0
    assert hypervolume([[2.0, -1.0], [1.0, 2.0]], [0.0, 0.0]) == 2.0  # below the reference
    assert hypervolume([], [0.0, 0.0]) == 0.0


def test_hypervolume_counts_the_cells_below() -> None:
    draw = random.Random(4)
    points = [[float(draw.randrange(1, 7)) for _ in range(3)] for _ in range(12)]
    cells = sum(
        any(all(c < p for c, p in zip(cell, point, strict=True)) for point in points)
        for cell in itertools.product(range(7), repeat=3)
    )
    assert hypervolume(points, [0.0, 0.0, 0.0]) == cells
