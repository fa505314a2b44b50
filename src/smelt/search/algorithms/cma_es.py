"""CMA-ES: sample around a mean, move mean and covariance towards what scored best. (Hansen 2016)"""

import math
import warnings
from collections import deque
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from smelt.core.errors import needs
from smelt.search.algorithm import Algorithm, refuse_several


class _Cma:
    def __init__(self, start: list[float], seed: int, sigma: float, population: int | None) -> None:
        try:
            import cma
        except ImportError as error:
            raise needs("search", "cma") from error
        options = {
            "bounds": [[0.0] * len(start), [1.0] * len(start)],
            # A smooth map into the box (never abs or clipping, which fold the search space).
            "BoundaryHandler": cma.BoundTransform,
            # A generator of its own: cma would seed and use numpy's global one.
            "randn": np.random.RandomState(seed % (2**31 - 2) + 1).randn,
            "seed": math.nan,
            "verbose": -9,
            "tolfun": 0,
            "tolflatfitness": 10**6,
        }
        if population is not None:
            options["popsize"] = population
        if len(start) == 1:
            options["maxstd"] = math.inf  # cma fails when it cuts the step of a single dimension
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one-dimensional spaces are allowed here
            self._strategy = cma.CMAEvolutionStrategy(start, sigma, options)
        self._first: list[float] | None = list(start)
        # cma's own arrays of every generation in flight: by them it knows the point behind each.
        self._asked: deque[list[Any]] = deque()

    def ask(self) -> list[list[float]]:
        """The next population; the very first asks for the start point too."""
        sampled = self._strategy.ask()
        self._asked.append(sampled)
        start, self._first = self._first, None
        made = [list(map(float, genome)) for genome in sampled]
        return [start, *made] if start is not None else made

    def tell(self, genomes: list[list[float]], values: list[list[float]]) -> None:
        """Learn from a whole population (the start point informs nobody but the caller)."""
        sampled = self._asked.popleft()
        losses = [-value for (value,) in values[-len(sampled) :]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its notes on small populations help no user of smelt
            self._strategy.tell(sampled, losses)

    def final(self) -> list[list[float]]:
        """The mean of the distribution: often better than any sample of it. One candidate."""
        return [list(map(float, self._strategy.result.xfavorite))]


def cma_es(
    start: list[float],
    seed: int,
    *,
    objectives: int = 1,
    sigma: Annotated[float, Field(gt=0, le=1)] = 1 / 6,
    population: Annotated[int, Field(ge=4)] | None = None,
) -> Algorithm:
    """Covariance matrix adaptation in the unit box.

    sigma: first step size as a share of each range (1/6 as in mergekit-evolve);
    population: candidates per generation, 4 + 3 ln(size) unless given.
    """
    refuse_several("cma_es", objectives)
    return _Cma(start, seed, sigma, population)
