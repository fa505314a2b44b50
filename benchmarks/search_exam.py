"""A synthetic problem for searches, and what a search took to solve it; tests/search has it too."""

import math
from typing import Any

import numpy as np


class Exam:
    """Items with a difficulty, right or wrong by a latent skill that falls off around an optimum
    (another one for each of four topics); each item has ripples of its own. A third is always
    right, a quarter always wrong, as benchmarks are for a family of merges."""

    def __init__(self, size: int, seed: int | list[int], items: int = 150) -> None:
        draw = np.random.default_rng(seed)
        middle = draw.uniform(0.15, 0.85, size)
        self.topics = np.clip(middle + draw.normal(0, 0.12, (4, size)), 0, 1)
        kinds = np.array([[-9, -4], [4, 9], [-2.5, 2.5]])
        low, high = kinds[draw.choice(3, items, p=[0.35, 0.25, 0.4])].T
        self.difficulty, self.topic = draw.uniform(low, high), draw.integers(0, 4, items)
        self.slope = draw.uniform(0.7, 1.5, items)
        self.wave = draw.normal(0, 6 / math.sqrt(size), (items, size))
        self.phase = draw.uniform(0, 2 * math.pi, items)

    def __call__(self, genome: list[float], items: list[int]) -> list[list[float]]:
        """1 for right, 0 for wrong."""
        skills = 3.2 - 45 * ((np.array(genome) - self.topics) ** 2).mean(1)
        ahead = self.slope[items] * (skills[self.topic[items]] - self.difficulty[items])
        ripple = np.sin(self.wave[items] @ np.array(genome) + self.phase[items])
        return [(ahead + ripple > 0).astype(float).tolist()]


def reached(rows: list[dict[str, Any]], fitness: float) -> float:
    """Item evaluations until one measured on all items is as good; infinite if none was."""
    total = 0
    for row in rows:
        total += row["items"]
        if row["best"] is not None and row["best"] >= fitness:
            return total
    return math.inf
