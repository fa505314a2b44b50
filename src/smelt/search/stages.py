"""A search in stages, coarse to fine: each starts at the best of the one before."""

from dataclasses import replace
from functools import partial

from smelt.core import registry
from smelt.core.seed import seed_for
from smelt.search.evolve import Result, evolve
from smelt.search.fitness import per_stage
from smelt.search.front import Member, joined
from smelt.search.measured import Log
from smelt.search.prepare import Ready
from smelt.search.space import Space, carry
from smelt.search.workers import Pool


def search_stages(
    ready: Ready,
    pool: Pool,
    log: Log,
    weights: list[float],
    names: list[str],
    *,
    seed: int,
    label: str,
) -> Result:
    """All stages of a search. Genomes of the result are of the finest space; its start is that of
    the first stage, its best and its front are over all of them.

    pool: measures genomes of the finest space; weights: of the items, sum 1; names: the domain or
    benchmark of each.
    """
    section, finest = ready.section, ready.spaces[-1]
    make = registry.load("search-algorithm", section.algorithm)
    objectives = len(section.objectives)
    genome = ready.start()
    found: list[Result] = []
    for stage, (evaluations, options) in enumerate(per_stage(section)):
        space = ready.spaces[stage]
        own = seed_for(seed, "search", *([str(stage)] if stage else []))
        result = evolve(
            make(genome, own, objectives=objectives, **options),
            pool,
            log,
            weights=weights,
            groups=names,
            evaluations=evaluations,
            label=f"{label} ({section.algorithm}, {space.size} genes)",
            objectives=objectives,
            racing=section.racing,
            stage=stage,
            expand=partial(carry, coarse=space, fine=finest),
        )
        found.append(_on_finest(result, space, finest))
        if stage + 1 < len(ready.spaces):
            genome = carry(result.genome, space, ready.spaces[stage + 1])
    return _whole(found)


def _on_finest(result: Result, space: Space, finest: Space) -> Result:
    front = [replace(one, genome=carry(one.genome, space, finest)) for one in result.front]
    return replace(result, genome=carry(result.genome, space, finest), front=front)


def _whole(stages: list[Result]) -> Result:
    """The stages as one search: of equally good ones the last, which is the finest."""
    best = max(reversed(stages), key=lambda one: one.best)
    front: list[Member] = []
    for one in stages:
        for member in one.front:
            front = joined(front, member)
    return replace(
        best,
        start=stages[0].start,
        evaluations=sum(one.evaluations for one in stages),
        items=sum(one.items for one in stages),
        front=sorted(front, key=lambda member: member.candidate),
    )
