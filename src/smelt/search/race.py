"""Generations: every candidate on every item, or a race in which the hopeless drop out early.

A generation is a generator of batches: it yields the measurements that it needs next and goes on
when they are there; an empty batch waits until all earlier generations are told.
"""

import math
from collections.abc import Callable, Generator

from smelt.search.candidate import WORST, Candidate
from smelt.search.items import Items
from smelt.search.recipe import Racing

Batch = list[tuple[Candidate, list[int]]]
Generation = Generator[Batch, None, list[list[float]]]
"""Yields batches; gives what each candidate counts as: one number per objective."""


def everything(candidates: list[Candidate], weights: list[float]) -> Generation:
    """Every candidate on every item."""
    yield [(one, list(range(len(weights)))) for one in candidates]
    return [one.values(weights) for one in candidates]


def race(
    candidates: list[Candidate],
    items: Items,
    racing: Racing,
    best: Callable[[], Candidate | None],
) -> Generation:
    """Rounds on a growing sample, the same items for all; the better part goes on each time.

    Who comes through is measured on all items as soon as that may make it the best so far, seen
    against the best on the items they share; the start of the search always is. Whoever dropped
    out is told with an estimate, below everyone who went further and below the best so far.
    """
    weights = items.weights
    order = items.order(candidates[0].generation, select=racing.select)
    whole = list(range(len(weights)))
    size = math.ceil(racing.first * len(order))
    first = [one for one in candidates if one.number == items.start]
    alive = list(candidates)
    reached = {one.number: 0.0 for one in candidates}  # rounds; infinite: came through, on all
    while True:
        sample = order[:size]
        yield [
            (one, whole if one in first and not one.seen else _unseen(one, sample))
            for one in alive
            if _unseen(one, sample)
        ]
        alive = [one for one in alive if one.error is None]
        for one in alive:
            reached[one.number] += 1
        if size == len(order) or len(alive) < 2:
            break
        standing = {one.number: _on(one, sample, weights) for one in alive}
        alive.sort(key=lambda one: (-standing[one.number], one.number))
        alive = alive[: max(1, math.ceil(racing.keep * len(alive)))]
        size = min(len(order), math.ceil(size * racing.growth))
    yield []
    champion = max(
        (one for one in [best(), *first] if one is not None and one.error is None),
        key=lambda one: one.mean(weights),
        default=None,
    )
    while rivals := [(gain, one) for one in alive if (gain := _gain(one, champion, weights)) > 0]:
        _, rival = max(rivals, key=lambda pair: (pair[0], pair[1].mean(weights), -pair[1].number))
        yield [(rival, _unseen(rival, whole))]
        alive = [one for one in alive if one.error is None]
        if rival in alive and (champion is None or rival.mean(weights) > champion.mean(weights)):
            champion = rival
    for one in alive:
        if len(one.seen) == len(weights):
            reached[one.number] = math.inf
    items.learn(candidates)
    ceiling = math.inf if champion is None else champion.mean(weights)
    return _ranked(candidates, items, reached, ceiling)


def _unseen(one: Candidate, items: list[int]) -> list[int]:
    return [item for item in items if item not in one.seen]


def _on(one: Candidate, sample: list[int], weights: list[float]) -> float:
    """Weighted sum on a sample: on the same items, its differences are the paired ones."""
    return math.fsum(weights[item] * one.seen[item][0] for item in sample)


def _gain(one: Candidate, champion: Candidate | None, weights: list[float]) -> float:
    """How much better it does than the best so far on the items that it has seen; nothing for a
    candidate that has seen all."""
    if len(one.seen) == len(weights):
        return 0.0
    if champion is None:
        return math.inf
    return math.fsum(weights[i] * (v[0] - champion.seen[i][0]) for i, v in one.seen.items())


def _ranked(
    candidates: list[Candidate], items: Items, reached: dict[int, float], ceiling: float
) -> list[list[float]]:
    """Means and estimates, in which no estimate stands above one who got further, nor above the
    best that was measured (ceiling).

    The estimates of a whole round are moved down together, so that their order stays.
    """
    found = {one.number: items.estimate(one) if one.error is None else WORST for one in candidates}
    alive = [one for one in candidates if one.error is None]
    ground = ceiling
    for depth in sorted({reached[one.number] for one in alive}, reverse=True):
        group = [one for one in alive if reached[one.number] == depth]
        guessed = [one.number for one in group if len(one.seen) < len(items.weights)]
        excess = max((found[number] for number in guessed), default=-math.inf) - ground
        if excess >= 0:
            for number in guessed:
                found[number] -= excess + 1e-9 * max(1.0, abs(ground))
        ground = min(ground, *(found[one.number] for one in group))
    return [[found[one.number]] for one in candidates]
