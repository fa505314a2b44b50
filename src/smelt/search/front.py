"""The Pareto front: candidates that no other beats in one objective without losing in another."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """A candidate on the front: its number, its genome, one value per objective."""

    candidate: int
    genome: list[float]
    objectives: list[float]


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """At least as good in every objective and better in one; more is better."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def joined(front: list[Member], new: Member) -> list[Member]:
    """The front with a new candidate: without those it dominates, or as it was when one on it is
    at least as good in everything (of equals, the first stays)."""
    for member in front:
        if member.objectives == new.objectives or dominates(member.objectives, new.objectives):
            return front
    return [m for m in front if not dominates(new.objectives, m.objectives)] + [new]
