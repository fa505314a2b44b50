"""NSGA-II: several objectives at once, gives a front of trade-offs. (Deb et al. 2002)"""

from smelt.core.errors import UserError, needs
from smelt.search.algorithm import Algorithm
from smelt.search.generations import Generations, check_population


def nsga2(
    start: list[float],
    seed: int,
    *,
    objectives: int = 1,
    population: int | None = None,
    crossover: float = 15.0,
    mutation: float = 20.0,
) -> Algorithm:
    """Rank by non-domination and crowding; simulated binary crossover, polynomial mutation.

    population: candidates per generation (at least 4; 20 unless given); crossover, mutation: their
    distribution indices, the larger the nearer children stay to their parents.
    """
    size = check_population(population, 20, 4)
    for key, index in (("crossover", crossover), ("mutation", mutation)):
        if not 0 < index <= 1000:
            raise UserError(f"options.{key}", f"found {index}", "above 0, at most 1000")
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
    except ImportError as error:
        raise needs("search", "pymoo") from error
    made = NSGA2(pop_size=size, crossover=SBX(eta=crossover, prob=0.9), mutation=PM(eta=mutation))
    return Generations(made, start, seed, objectives=objectives, population=size)
