"""A candidate: its place in the search and what was measured of it."""

import math
from dataclasses import dataclass, field

# What a candidate that failed counts as: worse than any score, yet a number algorithms can rank.
WORST = -1e9


@dataclass
class Candidate:
    """One candidate: its place in the search and what was measured so far.

    whole: on all items, whatever the others give; seen: item -> one value per objective.
    """

    number: int
    generation: int
    genome: list[float]
    objectives: int
    whole: bool
    seen: dict[int, list[float]] = field(default_factory=dict)
    error: str | None = None

    def take(self, items: list[int], answer: list[list[float]] | str) -> None:
        """Add a measurement. One value that is no number spoils the candidate."""
        if isinstance(answer, str):
            self.error = answer
            return
        for item, values in zip(items, zip(*answer, strict=True), strict=True):
            self.seen[item] = list(values)
            if not all(map(math.isfinite, values)):
                self.error = "not a number"

    def mean(self, weights: list[float], objective: int = 0) -> float:
        """Weighted mean over the items seen so far."""
        total = math.fsum(weights[item] for item in self.seen)
        return math.fsum(weights[i] * v[objective] for i, v in self.seen.items()) / total

    def values(self, weights: list[float]) -> list[float]:
        """What it counts as: one number per objective."""
        if self.error is not None:
            return [WORST] * self.objectives
        return [self.mean(weights, objective) for objective in range(self.objectives)]
