"""Racing: who is measured on what, what the others are told with, and what it saves."""

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search_exam import Exam, reached
from smelt.core import registry
from smelt.search.candidate import Candidate
from smelt.search.evolve import Result, evolve
from smelt.search.items import Items
from smelt.search.measured import Log
from smelt.search.race import race
from smelt.search.recipe import Racing
from smelt.search.workers import Here, Measure

Answers = dict[int, list[float]]  # candidate -> value of each item


def candidates(count: int, *, first: int = 5) -> list[Candidate]:
    return [Candidate(first + n, 1, [0.0], 1, False) for n in range(count)]


def run(
    made: list[Candidate], items: Items, racing: Racing, answers: Answers, best: Any = None
) -> tuple[list[list[tuple[int, list[int]]]], list[float]]:
    """The batches of a race, and what the candidates are told with."""
    batches = []
    steps = race(made, items, racing, lambda: best)
    while True:
        try:
            batch = next(steps)
        except StopIteration as stop:
            return batches, [value for (value,) in stop.value]
        batches.append([(one.number, asked) for one, asked in batch])
        for one, asked in batch:
            one.take(asked, [[answers[one.number][item] for item in asked]])


def champion(values: list[float]) -> Candidate:
    one = Candidate(1, 0, [0.0], 1, False)
    one.take(list(range(len(values))), [values])
    return one


def test_rounds_grow_and_the_better_half_goes_on() -> None:
    items = Items([1 / 8] * 8, [""] * 8, start=0)
    # Candidate n gets n right in each pair; nobody reaches the best so far.
    answers = {5 + n: [n / 10] * 8 for n in range(8)}
    racing = Racing(first=0.25, growth=2.0, keep=0.5, select=False)
    batches, values = run(candidates(8), items, racing, answers, champion([2.0] * 8))
    assert [len(batch) for batch in batches] == [8, 4, 2, 0]
    assert [{number for number, _ in batch} for batch in batches[:3]] == [
        set(range(5, 13)), {9, 10, 11, 12}, {11, 12}]  # fmt: skip
    for batch, size in zip(batches, [2, 2, 4], strict=False):
        shares = [asked for _, asked in batch]
        assert all(share == shares[0] and len(share) == size for share in shares)  # the same items
    assert sorted(item for batch in batches[:3] for item in batch[0][1]) == list(range(8))
    # Two came through to all items; the others are told with estimates, in their order.
    assert values[6:] == pytest.approx([0.6, 0.7])
    assert values == sorted(values)
    assert len(set(values)) == 8


def test_only_what_may_be_best_is_measured_on_all() -> None:
    items = Items([1 / 8] * 8, [""] * 8, start=0)
    for _ in range(30):  # items 0 to 3 tell candidates apart, the others do not
        items.learn([champion([1.0] * 4 + [0.0] * 4), champion([0.0] * 8)])
    best = champion([1.0, 0.0, 0.0, 0.0] + [0.0] * 4)
    answers = {
        5: [1.0, 1.0, 1.0, 0.0] + [0.0] * 4,
        6: [1.0, 0.0, 0.0, 0.0] + [1.0] * 4,
        7: [0.0] * 8,
        8: [0.0] * 8,
    }
    racing = Racing(first=1.0, growth=2.0, keep=0.5)
    made = candidates(4)
    batches, values = run(made, items, racing, answers, best)
    assert [len(batch) for batch in batches] == [4, 0, 1]
    assert all(set(asked) == {0, 1, 2, 3} for _, asked in batches[0])
    assert batches[2] == [(5, [4, 5, 6, 7])]
    assert values[0] == 3 / 8  # measured on all: its own mean
    assert len(made[1].seen) == 4  # on what it saw it is no better than the best so far
    assert values[0] > values[1] > values[2] == values[3]


def test_a_rival_that_disappoints_makes_room_for_the_next() -> None:
    items = Items([1 / 4] * 4, [""] * 4, start=0)
    racing = Racing(first=0.5, growth=2.0, keep=0.99, select=False)
    order = items.order(1, select=False)
    answers = {}
    for n in range(3):
        values = [0.0] * 4
        for place, item in enumerate(order):
            values[item] = (1.0 - n / 10) if place < 2 else 0.0
        answers[5 + n] = values
    made = candidates(3)
    batches, _ = run(made, items, racing, answers, champion([0.4] * 4))
    assert sum(len(asked) for batch in batches for _, asked in batch) == 12
    # Nobody is better than the best so far once all is measured.
    assert all(len(one.seen) == 4 for one in made)


def test_the_start_of_the_search_is_measured_on_all() -> None:
    items = Items([1 / 8] * 8, [""] * 8, start=5)
    answers = {5 + n: [n / 10] * 8 for n in range(4)}
    racing = Racing(first=0.25, growth=2.0, keep=0.5, select=False)
    made = candidates(4)
    batches, values = run(made, items, racing, answers)
    assert batches[0][0] == (5, list(range(8)))
    assert values[0] == 0.0  # it dropped out and keeps its own value
    assert values[3] == pytest.approx(0.3)
    assert len(made[3].seen) == 8
    assert values[1] < values[2] < values[3]


def test_what_fails_drops_out_in_any_round() -> None:
    items = Items([1 / 8] * 8, [""] * 8, start=0)
    racing = Racing(first=0.25, growth=2.0, keep=0.5, select=False)
    order = items.order(1, select=False)
    answers = {5 + n: [n / 10] * 8 for n in range(4)}
    answers[8] = [math.nan if item == order[3] else 0.3 for item in range(8)]
    answers[7] = [math.nan] * 8
    made = candidates(4)
    _, values = run(made, items, racing, answers)
    assert [one.error for one in made] == [None, None, "not a number", "not a number"]
    assert values[2:] == [-1e9, -1e9]
    assert values[0] < values[1] == pytest.approx(0.1)


@pytest.mark.parametrize("seed", range(20))
def test_no_estimate_stands_above_who_got_further(seed: int) -> None:
    draw = random.Random(seed)
    size = draw.randrange(3, 30)
    items = Items([1 / size] * size, [draw.choice("ab") for _ in range(size)], start=0)
    items.learn([champion([draw.random() for _ in range(size)]) for _ in range(4)])
    made = candidates(draw.randrange(1, 12))
    answers = {one.number: [draw.gauss(0, 1) for _ in range(size)] for one in made}
    racing = Racing(first=draw.uniform(0.05, 1), growth=draw.uniform(1.1, 3),
                    keep=draw.uniform(0.1, 0.9), select=draw.random() < 0.5)  # fmt: skip
    best = champion([draw.gauss(0, 1) for _ in range(size)])
    _, values = run(made, items, racing, answers, best)
    told = sorted(zip(values, made, strict=True), key=lambda pair: pair[0])
    seen = [len(one.seen) for _, one in told]
    assert seen == sorted(seen)
    top = max(math.fsum(answers[one.number]) / size for one in made if len(one.seen) == size) \
        if seen[-1] == size else -math.inf  # fmt: skip
    for one, value in zip(made, values, strict=True):
        if len(one.seen) == size:
            assert value == pytest.approx(math.fsum(answers[one.number]) / size)
        else:
            assert value < top or top == -math.inf


def test_items_that_tell_candidates_apart_come_first() -> None:
    size = 40
    items = Items([1 / size] * size, ["a"] * 20 + ["b"] * 20, start=0)
    draw = random.Random(0)
    for _ in range(30):
        # Items 0-4 and 20-24 differ, the rest never does.
        made = [champion([float(draw.random() < 0.5) if i % 20 < 5 else 1.0 for i in range(size)])
                for _ in range(6)]  # fmt: skip
        items.learn(made)
    informative = {*range(5), *range(20, 25)}
    orders = [items.order(generation, select=True) for generation in range(30)]
    for order in orders:
        assert set(order) <= informative
        assert len(order) >= 8
        assert abs(sum(item < 20 for item in order[:4]) - 2) <= 1  # a share of each group
    assert len({tuple(order[:3]) for order in orders}) > 10  # not the same few each time
    assert items.order(7, select=True) == orders[7]
    assert sorted(items.order(3, select=False)) == list(range(size))
    assert Items([0.5, 0.5], ["", ""], start=0).order(0, select=True)  # nothing is known yet


def test_weights_of_every_item_may_differ() -> None:
    draw = random.Random(0)
    weights = [draw.uniform(0.1, 3) for _ in range(30)]
    items = Items([w / sum(weights) for w in weights], ["a"] * 30, start=0)
    first = [items.order(generation, select=False)[:10] for generation in range(200)]
    heavy = sorted(range(30), key=lambda item: -weights[item])
    counts = [sum(item in part for part in first) for item in range(30)]
    assert sum(counts[item] for item in heavy[:10]) > 2 * sum(counts[item] for item in heavy[20:])


def test_the_estimate_is_the_difference_estimator() -> None:
    items = Items([0.25] * 4, [""] * 4, start=0)
    one = Candidate(9, 1, [0.0], 1, False)
    one.take([0, 1], [[1.0, 0.0]])
    assert items.estimate(one) == 0.5  # nothing is known: its own mean
    items.learn([champion([1.0, 0.0, 1.0, 0.0]), champion([0.0] * 4), one])
    # On all items: the first, faded to 0.8, and the second: usual 0.8 / 1.8, 0, 0.8 / 1.8, 0.
    # Sums of squared deviations 2/3 (of 1, 0, 1), 0, 1/2, 0 over 10 values: 7/60 by usage; so
    # variances are (2/3 + 7/60) / 4, (7/60) / 4, (1/2 + 7/60) / 3, (7/60) / 3.
    usual = 0.8 / 1.8
    spread = [47 / 240, 7 / 240, 37 / 180, 7 / 180]
    ratio = sum(spread) / (spread[0] + spread[1])
    expected = 0.25 * 2 * usual + 0.25 * (1 - usual) * ratio
    assert items.estimate(one) == pytest.approx(expected)
    one.take([2, 3], [[1.0, 1.0]])
    assert items.estimate(one) == 0.75


def test_estimates_are_near_and_lean_to_no_side() -> None:
    errors = []
    draw = random.Random(3)
    for seed in range(8):
        exam = Exam(4, seed)
        weights = [1 / 150] * 150
        items = Items(weights, [""] * 150, start=0)
        for generation in range(6):
            racing = Racing()
            made = [Candidate(1 + n, generation, [draw.gauss(0.5, 0.1) for _ in range(4)], 1, False)
                    for n in range(8)]  # fmt: skip
            answers = {one.number: exam(one.genome, list(range(150)))[0] for one in made}
            run(made, items, racing, answers)
            if generation:
                errors += [items.estimate(one) - math.fsum(answers[one.number]) / 150
                           for one in made if len(one.seen) < 150]  # fmt: skip
    assert len(errors) > 200
    assert abs(statistics.mean(errors)) < 0.02
    assert math.sqrt(statistics.mean(error**2 for error in errors)) < 0.05


def searched(
    folder: Path, exam: Measure, size: int, seed: int, evaluations: int, racing: Racing | None
) -> tuple[Result, list[dict[str, Any]]]:
    folder.mkdir()
    algorithm = registry.load("search-algorithm", "cma_es")([0.5] * size, seed)
    with Log(folder) as log:
        result = evolve(algorithm, Here(exam), log, weights=[1 / 150] * 150, racing=racing,
                        evaluations=evaluations, label="t")  # fmt: skip
    return result, [json.loads(x) for x in (folder / "journal.jsonl").read_text().splitlines()]


def test_racing_halves_the_item_evaluations_to_a_fixed_fitness(tmp_path: Path) -> None:
    ratios = []
    for seed in range(10):
        exam = Exam(8, seed)
        plain, rows = searched(tmp_path / f"plain{seed}", exam, 8, seed, 150, None)
        assert plain.start is not None
        aim = plain.start + 0.9 * (plain.best - plain.start)
        racing, raced = searched(tmp_path / f"race{seed}", exam, 8, seed, 300, Racing())
        assert racing.items < plain.items
        assert racing.best >= aim - 0.01
        # What it reports was measured: the whole exam gives the same.
        (values,) = exam(racing.genome, list(range(150)))
        assert racing.best == pytest.approx(sum(values) / 150)
        ends = {row["generation"]: row["best"] for row in raced}
        for row in raced:  # no estimate is above the best that was measured by then
            assert row["items"] == 150 or row["fitness"] < ends[row["generation"]]
        ratios.append(reached(raced, aim) / reached(rows, aim))
    assert statistics.median(ratios) <= 0.5, ratios
