"""Random search: uniform candidates in the box. The yardstick for every other algorithm."""

import random
from typing import Annotated

from pydantic import Field

from smelt.search.algorithm import Algorithm


class _Random:
    def __init__(self, start: list[float], seed: int, population: int) -> None:
        self._random, self._size = random.Random(seed), len(start)
        self._first: list[float] | None = list(start)
        self._population = population

    def ask(self) -> list[list[float]]:
        """A batch of uniform candidates; the very first asks for the start point too."""
        made = [[self._random.random() for _ in range(self._size)] for _ in range(self._population)]
        start, self._first = self._first, None
        return [start, *made] if start is not None else made

    def tell(self, genomes: list[list[float]], values: list[list[float]]) -> None:
        """Nothing is learnt."""

    def final(self) -> list[list[float]]:
        """There is no distribution to summarise."""
        return []


def random_search(
    start: list[float],
    seed: int,
    *,
    objectives: int = 1,
    population: Annotated[int, Field(ge=1)] = 10,
) -> Algorithm:
    """Uniform samples of the unit box, `population` at a time; any objectives."""
    return _Random(start, seed, population)
