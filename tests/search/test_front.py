"""The Pareto front, against counting and by hand."""

import random

import pytest

from smelt.search.front import Member, dominates, joined


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
