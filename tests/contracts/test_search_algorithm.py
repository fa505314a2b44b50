"""What every search algorithm must do: stay in the box, improve, replay exactly, take answers late,
leave random numbers alone."""

import math
import random

import numpy as np
import pytest
import torch

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.search.algorithm import Algorithm

NAMES = registry.names("search-algorithm")
every = pytest.mark.parametrize("name", NAMES)

BEST = [0.3, 0.55, 0.7, 0.4]
START = [0.5, 0.5, 0.5, 0.5]
# Uniform sampling gets only so far, NSGA-II is made to spread, and the third gets few candidates.
AS_GOOD_AS = {"random_search": 0.5, "nsga2": 0.05, "bayesian": 0.2}
# A model of all scores chooses each candidate: few, and slowly.
CANDIDATES = {"bayesian": 24}
# The start belongs to the first population of these; the others ask for it beside.
FROM_A_POPULATION = {"differential_evolution", "nsga2", "bayesian"}
SEVERAL = {"random_search", "nsga2", "bayesian"}


def sphere(genome: list[float]) -> float:
    return -sum((value - best) ** 2 for value, best in zip(genome, BEST, strict=False))


def run(algorithm: Algorithm, candidates: int) -> list[list[float]]:
    """Every genome asked for, the last looks included."""
    asked: list[list[float]] = []
    while len(asked) < candidates:
        genomes = algorithm.ask()
        asked += genomes
        algorithm.tell(genomes, [[sphere(genome)] for genome in genomes])
    return asked + algorithm.final()


def make(name: str, start: list[float] = START, seed: int = 1, **options: int) -> Algorithm:
    found: Algorithm = registry.load("search-algorithm", name)(
        start, seed, **{"objectives": 1, **options}
    )
    return found


@every
def test_finds_the_top_of_a_shifted_sphere(name: str) -> None:
    asked = run(make(name), CANDIDATES.get(name, 480))
    assert asked[0] == START
    share = AS_GOOD_AS.get(name, 1e-3)
    assert max(map(sphere, asked)) > share * sphere(START)


@every
@pytest.mark.parametrize("start", [START, [0.0, 1.0, 0.0, 1.0], [1e-9, 0.5, 1 - 1e-9, 1.0]])
def test_stays_in_the_box(name: str, start: list[float]) -> None:
    algorithm = make(name, start, 2)
    for _ in range(CANDIDATES.get(name, 250) // 10):
        genomes = algorithm.ask()
        assert all(0 <= value <= 1 for genome in genomes for value in genome)
        algorithm.tell(genomes, [[sum(genome)] for genome in genomes])  # the top is a corner
    assert all(0 <= value <= 1 for genome in algorithm.final() for value in genome)


@every
def test_replays_exactly_and_seeds_differ(name: str) -> None:
    candidates = CANDIDATES.get(name, 100) // 2
    assert run(make(name, seed=7), candidates) == run(make(name, seed=7), candidates)
    assert run(make(name, seed=7), 12) != run(make(name, seed=8), 12)


@every
def test_no_random_numbers_but_its_own(name: str) -> None:
    def state() -> list[object]:
        # Not python's own, of which the type checks of the tests themselves take some.
        return [repr(np.random.get_state()), torch.get_rng_state().tolist()]

    before = state()
    first = run(make(name), 20)
    assert state() == before
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert run(make(name), 20) == first


@every
def test_works_in_one_dimension(name: str) -> None:
    asked = run(make(name, [0.9], 0), CANDIDATES.get(name, 150))
    assert min(abs(genome[0] - BEST[0]) for genome in asked) < 0.02


@every
def test_survives_equal_and_failed_answers(name: str) -> None:
    algorithm = make(name, seed=0)
    rounds = 3 if name in CANDIDATES else 120
    for value in [-1e9] * 3 + [0.0] * rounds + [-1e9] * 2:
        genomes = algorithm.ask()
        algorithm.tell(genomes, [[value]] * len(genomes))
    asked = algorithm.ask()
    assert len(asked) > 1
    assert all(0 <= value <= 1 for genome in asked for value in genome)


@every
def test_failures_do_not_hide_the_others(name: str) -> None:
    """A third of the box fails; the top lies beside it."""
    algorithm, asked = make(name, seed=3), []
    while len(asked) < CANDIDATES.get(name, 300):
        genomes = algorithm.ask()
        asked += [genome for genome in genomes if genome[1] <= 0.65]
        algorithm.tell(genomes, [[-1e9 if g[1] > 0.65 else sphere(g)] for g in genomes])
    share = AS_GOOD_AS.get(name, 0.02)
    assert max(map(sphere, asked)) > share * sphere(START)


@every
def test_a_generation_may_be_asked_before_the_last_is_told(name: str) -> None:
    """Two generations in flight from the very first on, told in the order in which they came."""

    def course() -> list[list[float]]:
        algorithm, flight, asked = make(name, seed=4), [], list[list[float]]()
        while len(asked) < CANDIDATES.get(name, 400):
            while len(flight) < 2:
                flight.append(algorithm.ask())
            genomes = flight.pop(0)
            asked += genomes
            algorithm.tell(genomes, [[sphere(genome)] for genome in genomes])
        return asked

    asked = course()
    assert asked == course()
    assert len({tuple(genome) for genome in asked}) > 0.9 * len(asked)
    share = AS_GOOD_AS.get(name, 0.02)
    assert max(map(sphere, asked)) > share * sphere(START)


@every
def test_the_last_looks_are_always_as_many(name: str) -> None:
    algorithm = make(name, seed=0)
    before = len(algorithm.final())
    run(algorithm, 24)
    assert len(algorithm.final()) == before


@every
def test_population_is_taken_and_checked(name: str) -> None:
    algorithm = make(name, population=6)
    first = 6 if name in FROM_A_POPULATION else 7
    assert [len(algorithm.ask()), len(algorithm.ask())] == [first, 6]
    with pytest.raises(UserError, match=r"options.population: found 0"):
        registry.check_keywords("search-algorithm", name, {"population": 0}, "options")


def front(answers: list[list[float]]) -> list[list[float]]:
    """The answers that no other beats in both objectives, by the first."""
    kept: list[list[float]] = []
    for one in sorted(answers, key=lambda pair: (-pair[0], -pair[1])):
        if not kept or one[1] > kept[-1][1]:
            kept.append(one)
    return kept


def volume(answers: list[list[float]]) -> float:
    """Area that two objectives to maximise dominate, above (-1.1, -1.1)."""
    area, floor = 0.0, -1.1
    for first, second in front([pair for pair in answers if min(pair) > -1.1]):
        area += (first + 1.1) * (second - floor)
        floor = second
    return area


def zdt1(genome: list[float]) -> list[float]:
    """ZDT1 (Zitzler et al. 2000), maximised: on the front the other genes are 0, f2 = 1 - f1^.5."""
    rest = 1 + 9 * sum(genome[1:]) / (len(genome) - 1)
    return [-genome[0], -rest * (1 - (genome[0] / rest) ** 0.5)]


def answers_of(name: str, candidates: int) -> list[list[float]]:
    algorithm, answers = make(name, [0.5] * 6, 1, objectives=2), list[list[float]]()
    while len(answers) < candidates:
        genomes = algorithm.ask()
        told = [zdt1(genome) for genome in genomes]
        answers += told
        algorithm.tell(genomes, told)
    return answers


# Of the true front: 1.1 * 1.1 less the area below it, 1/3.
TRUE = 1.1 * 1.1 - 1 / 3


@pytest.mark.parametrize(
    ("name", "candidates", "share"), [("nsga2", 1500, 0.97), ("bayesian", 24, 0.7)]
)
def test_two_objectives_give_a_front_near_the_true_one(
    name: str, candidates: int, share: float
) -> None:
    answers = answers_of(name, candidates)
    assert share * TRUE < volume(answers) < TRUE
    assert volume(answers) > 1.2 * volume(answers_of("random_search", candidates))
    if name == "nsga2":
        kept = front(answers)
        distances = [-second - (1 - (-first) ** 0.5) for first, second in kept]
        assert max(distances) < 0.1
        assert -kept[0][0] < 0.05 < 0.9 < -kept[-1][0]  # the whole of it


@every
def test_more_objectives_than_it_takes_are_refused(name: str) -> None:
    if name in SEVERAL:
        algorithm = make(name, objectives=3)
        genomes = algorithm.ask()
        algorithm.tell(genomes, [[0.1, -1e9, 0.2]] + [[0.1, 0.2, 0.3]] * (len(genomes) - 1))
        assert len(algorithm.ask()) > 1
        return
    with pytest.raises(UserError, match=r"objectives: 2 objectives .* Next: algorithm: nsga2 or"):
        make(name, objectives=2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cma_es", {"sigma": 0.0}),
        ("cma_es", {"sigma": 1.1}),
        ("cma_es", {"sigma": math.nan}),
        ("cma_es", {"population": 3}),
        ("differential_evolution", {"factor": 0.0}),
        ("differential_evolution", {"factor": 2.1}),
        ("differential_evolution", {"crossover": 1.1}),
        ("differential_evolution", {"crossover": -0.1}),
        ("differential_evolution", {"population": 4}),
        ("nsga2", {"crossover": 0.0}),
        ("nsga2", {"mutation": -1.0}),
        ("nsga2", {"mutation": math.inf}),
        ("nsga2", {"population": 3}),
        ("bayesian", {"startup": 0}),
    ],
)
def test_options_are_checked(name: str, options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"options.{next(iter(options))}: found"):
        registry.check_keywords("search-algorithm", name, options, "options")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cma_es", {"sigma": 1.0, "population": 4}),
        ("differential_evolution", {"factor": 2.0, "crossover": 0.0, "population": 5}),
        ("nsga2", {"crossover": 1000.0, "mutation": 1000.0, "population": 4}),
        ("bayesian", {"startup": 1, "population": 1}),
        ("random_search", {"population": 1}),
    ],
)
def test_options_at_their_ends_are_taken(name: str, options: dict[str, float]) -> None:
    registry.check_keywords("search-algorithm", name, options, "options")
    assert registry.load("search-algorithm", name)(START, 0, **options).ask()
