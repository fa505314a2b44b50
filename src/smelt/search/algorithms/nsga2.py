"""NSGA-II: several objectives at once, gives a front of trade-offs. (Deb et al. 2002)"""

from typing import Annotated

from pydantic import Field

from smelt.core.errors import needs
from smelt.search.algorithm import Algorithm
from smelt.search.generations import Generations


def nsga2(
    start: list[float],
    seed: int,
    *,
    objectives: int = 1,
    population: Annotated[int, Field(ge=4)] = 20,
    crossover: Annotated[float, Field(gt=0, le=1000)] = 15.0,
    mutation: Annotated[float, Field(gt=0, le=1000)] = 20.0,
) -> Algorithm:
    """Rank by non-domination and crowding; simulated binary crossover, polynomial mutation.

    population: candidates per generation; crossover, mutation: their distribution indices, the
    larger the nearer children stay to their parents.
    """
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
    except ImportError as error:
        raise needs("search", "pymoo") from error
    made = NSGA2(
        pop_size=population, crossover=SBX(eta=crossover, prob=0.9), mutation=PM(eta=mutation)
    )
    return Generations(made, start, seed, objectives=objectives, population=population)
