"""Differential evolution: the best, moved by the difference of two others. (Storn, Price 1997)"""

from typing import Annotated

from pydantic import Field

from smelt.core.errors import needs
from smelt.search.algorithm import Algorithm, refuse_several
from smelt.search.generations import Generations


def differential_evolution(
    start: list[float],
    seed: int,
    *,
    objectives: int = 1,
    population: Annotated[int, Field(ge=5)] | None = None,
    factor: Annotated[float, Field(gt=0, le=2)] = 0.5,
    crossover: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> Algorithm:
    """DE/best/1/bin (pymoo). A step out of the box lands between its wall and where it came from.

    population: candidates per generation, 2 for each gene, 10 to 20, unless given;
    factor: length of a step as a share of the difference; crossover: share of genes that step.
    From the best of a small population, since merges are costly: on budgets of 100 to 400 it beats
    DE/rand/1 and larger populations on smooth, bumpy and stepwise functions alike.
    """
    refuse_several("differential_evolution", objectives)
    size = population or min(20, max(10, 2 * len(start)))
    try:
        from pymoo.algorithms.soo.nonconvex.de import DE
    except ImportError as error:
        raise needs("search", "pymoo") from error
    # pymoo would mutate every tenth candidate beside; the algorithm of this name does not.
    made = DE(pop_size=size, variant="DE/best/1/bin", F=factor, CR=crossover, prob_mut=0.0)
    return Generations(made, start, seed, objectives=1, population=size)
