"""What every search algorithm must do: stay in the box, improve, and replay exactly."""

import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.search.algorithm import Algorithm

pytestmark = pytest.mark.parametrize("name", registry.names("search-algorithm"))

BEST = [0.3, 0.55, 0.7, 0.4]
START = [0.5, 0.5, 0.5, 0.5]
# Uniform sampling gets only so far in four dimensions.
AS_GOOD_AS = {"random_search": 0.5}


def sphere(genome: list[float]) -> float:
    return -sum((value - best) ** 2 for value, best in zip(genome, BEST, strict=False))


def run(algorithm: Algorithm, generations: int) -> list[list[float]]:
    """Every genome asked for, the last looks included."""
    asked = []
    for _ in range(generations):
        genomes = algorithm.ask()
        asked += genomes
        algorithm.tell(genomes, [sphere(genome) for genome in genomes])
    return asked + algorithm.final()


def test_finds_the_top_of_a_shifted_sphere(name: str) -> None:
    asked = run(registry.load("search-algorithm", name)(START, 1), 60)
    assert asked[0] == START
    share = AS_GOOD_AS.get(name, 1e-4)
    assert max(map(sphere, asked)) > share * sphere(START)


@pytest.mark.parametrize("start", [START, [0.0, 1.0, 0.0, 1.0], [1e-9, 0.5, 1 - 1e-9, 1.0]])
def test_stays_in_the_box(name: str, start: list[float]) -> None:
    algorithm = registry.load("search-algorithm", name)(start, 2)
    for _ in range(25):
        genomes = algorithm.ask()
        assert all(0 <= value <= 1 for genome in genomes for value in genome)
        algorithm.tell(genomes, [sum(genome) for genome in genomes])  # the top is a corner
    assert all(0 <= value <= 1 for genome in algorithm.final() for value in genome)


def test_replays_exactly_and_seeds_differ(name: str) -> None:
    make = registry.load("search-algorithm", name)
    assert run(make(START, 7), 12) == run(make(START, 7), 12)
    assert run(make(START, 7), 2) != run(make(START, 8), 2)


def test_works_in_one_dimension(name: str) -> None:
    asked = run(registry.load("search-algorithm", name)([0.9], 0), 15)
    assert min(abs(genome[0] - BEST[0]) for genome in asked) < 0.02


def test_survives_equal_and_failed_answers(name: str) -> None:
    algorithm = registry.load("search-algorithm", name)(START, 0)
    for value in [0.0] * 120 + [-1e9] * 5:
        genomes = algorithm.ask()
        algorithm.tell(genomes, [value] * len(genomes))
    assert all(0 <= value <= 1 for genome in algorithm.ask() for value in genome)


def test_the_last_looks_are_always_as_many(name: str) -> None:
    algorithm = registry.load("search-algorithm", name)(START, 0)
    before = len(algorithm.final())
    run(algorithm, 3)
    assert len(algorithm.final()) == before


def test_population_is_taken_and_checked(name: str) -> None:
    make = registry.load("search-algorithm", name)
    algorithm = make(START, 0, population=6)
    assert [len(algorithm.ask()), len(algorithm.ask())] == [7, 6]
    with pytest.raises(UserError, match=r"options.population"):
        make(START, 0, population=0)
