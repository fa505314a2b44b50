"""Algorithms of pymoo behind ask and tell: generations in the unit box, maximised."""

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Generations:
    """An algorithm of pymoo. Its first population is the start point and a Latin hypercube.

    Random numbers come from the algorithm's own generator, seeded here, and from no other.
    """

    def __init__(
        self, algorithm: Any, start: list[float], seed: int, *, objectives: int, population: int
    ) -> None:
        from pymoo.core.population import Population
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination

        self._new = Population.new
        self._size, self._population = len(start), population
        problem = Problem(n_var=len(start), n_obj=objectives, xl=0.0, xu=1.0)
        algorithm.setup(problem, seed=seed % 2**32, termination=NoTermination())
        self._algorithm = algorithm
        self._random = np.random.default_rng([seed % 2**32, 1])
        self._first: list[float] | None = list(start)
        self._asked: deque[Any] = deque()

    def ask(self) -> list[list[float]]:
        """The next population; before the first is told, points that cover the box."""
        if self._algorithm.is_initialized:
            asked = self._algorithm.ask()
            points = np.empty((0, self._size)) if asked is None else asked.get("X")
            lacking = self._population - len(points)
            if lacking > 0:  # it found too few that are not there yet
                points = np.vstack([points, self._random.random((lacking, self._size))])
        else:
            points = self._spread()
            if self._first is not None:
                points[0] = self._first
                self._first = None
        points = np.clip(points, 0.0, 1.0)
        self._asked.append(points)
        return [[float(value) for value in point] for point in points]

    def _spread(self) -> NDArray[np.float64]:
        shape = (self._population, self._size)
        cells = self._random.permuted(np.tile(np.arange(shape[0]), (self._size, 1)), axis=1).T
        spread: NDArray[np.float64] = (cells + self._random.random(shape)) / shape[0]
        return spread

    def tell(self, genomes: list[list[float]], values: list[list[float]]) -> None:
        """Learn from the earliest population that was not told yet."""
        told = self._new(X=self._asked.popleft(), F=-np.asarray(values, dtype=float))
        for one in told:
            one.evaluated.update(["F", "G", "H"])
        told.set("index", np.arange(len(told)))  # whom a candidate may replace (DE)
        self._algorithm.tell(infills=told)

    def final(self) -> list[list[float]]:
        """All that is good was scored already."""
        return []
