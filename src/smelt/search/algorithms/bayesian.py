"""Bayesian: a Gaussian process of the scores says where to look next. (Jones et al. 1998)"""

import warnings
from collections import deque
from typing import Annotated, Any

from pydantic import Field

from smelt.core.errors import needs
from smelt.search.algorithm import Algorithm
from smelt.search.candidate import WORST


class _Bayesian:
    def __init__(
        self, start: list[float], seed: int, objectives: int, population: int, startup: int
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            raise needs("search", "optuna") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._failed = optuna.trial.TrialState.FAIL
        self._population = population
        self._names = [f"gene{index}" for index in range(len(start))]
        self._box: dict[str, Any] = {
            name: optuna.distributions.FloatDistribution(0, 1) for name in self._names
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts that optuna may still change
            sampler = optuna.samplers.GPSampler(seed=seed % 2**32, n_startup_trials=startup)
            self._study = optuna.create_study(
                sampler=sampler, directions=["maximize"] * objectives, study_name="search"
            )
            self._study.enqueue_trial(dict(zip(self._names, start, strict=True)))
        self._asked: deque[list[Any]] = deque()
        self._worst = [float("inf")] * objectives

    def ask(self) -> list[list[float]]:
        """The next candidates, each chosen in view of all told and of those still in flight."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trials = [self._study.ask(self._box) for _ in range(self._population)]
        self._asked.append(trials)
        return [[float(trial.params[name]) for name in self._names] for trial in trials]

    def tell(self, genomes: list[list[float]], values: list[list[float]]) -> None:
        """Learn. A failure counts as the worst score so far: its mark would drown all others."""
        for found in values:
            if min(found) > WORST:
                self._worst = [min(pair) for pair in zip(self._worst, found, strict=True)]
        known = self._worst[0] < float("inf")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for trial, found in zip(self._asked.popleft(), values, strict=True):
                if min(found) > WORST:
                    self._study.tell(trial, found)
                elif known:
                    self._study.tell(trial, self._worst)
                else:
                    self._study.tell(trial, state=self._failed)

    def final(self) -> list[list[float]]:
        """All that is good was scored already."""
        return []


def bayesian(
    start: list[float],
    seed: int,
    *,
    objectives: int = 1,
    population: Annotated[int, Field(ge=1)] = 4,
    startup: Annotated[int, Field(ge=1)] = 10,
) -> Algorithm:
    """Gaussian process with expected improvement, of the hypervolume for several objectives.

    By optuna's GPSampler; for few, costly candidates: the time to choose one grows with the cube of
    their number. population: candidates per generation; startup: uniform ones before the first
    model.
    """
    return _Bayesian(start, seed, objectives, population, startup)
