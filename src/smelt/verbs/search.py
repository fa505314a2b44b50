"""Search merge parameters, per layer if wanted, for the best fitness; merged in memory."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smelt.core import progress
from smelt.core.errors import UserError
from smelt.core.run import Run
from smelt.verbs._options import recipe_verb
from smelt.verbs.train import write_card

if TYPE_CHECKING:
    from smelt.evals.candidates import Sides
    from smelt.search.evolve import Result

BEST = """\
# The best merge of a search. Model paths start at the folder that holds the result folder, so call
# `smelt merge` there: cd THAT_FOLDER && smelt merge RESULT/best.yaml OUT
"""


def shape(data: dict[str, Any], *, where: str) -> None:
    """Validate keys only: what can be known before the inputs exist."""
    from smelt.search.prepare import parse_keys

    parse_keys(data, where)


def check(data: dict[str, Any], *, where: str) -> list[str]:
    """Validate recipe, models, fitness data and start; lines about the space."""
    from smelt.evals.candidates import items_of, prepare_sides
    from smelt.search.fitness import per_stage

    sides = prepare_sides(data, where)
    ready, section = sides.ready, sides.ready.section
    ready.start()
    names = list(section.fitness.benchmarks or section.fitness.domains)
    lines = [
        f"{len(space.genes)} parameters x {len(space.groups)} groups = {space.size} genes, "
        f"{candidates} candidates by {section.algorithm}"
        for space, (candidates, _) in zip(ready.spaces, per_stage(section), strict=True)
    ]
    total = len(items_of(sides)[0])
    by = section.fitness.scored_by
    lines.append(f"each scored on {total} items of {', '.join(names)} ({by})")
    if section.racing is not None:
        lines.append(f"racing: from {math.ceil(section.racing.first * total)} items on")
    return lines


def execute(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
) -> None:
    """Search, then write the best merge as a checkpoint folder with its plain recipe."""
    from smelt.evals.candidates import build, items_of, prepare_sides
    from smelt.merge.apply import merge_to_folder
    from smelt.merge.plan import plan
    from smelt.merge.recipe import parse_recipe
    from smelt.search.measured import Log
    from smelt.search.stages import search_stages
    from smelt.search.workers import pool

    sides = prepare_sides(data, where)
    ready, section = sides.ready, sides.ready.section
    if ":" in device and (section.workers > 1 or section.address is not None):
        found = f"'{device}' for several workers"
        raise UserError("--device", found, "cuda: each worker is given a GPU of its own")
    run = Run(out, "search", ready.located(data), sides.inputs, seed=seed, replace=replace)
    if run.done:
        return
    names, weights = items_of(sides)
    with run:
        workers = pool(partial(build, data, where, device), section.workers, section.address)
        try:
            with Log(run.folder) as log:
                result = search_stages(
                    ready, workers, log, weights, names, seed=seed, label=f"search {out.name}"
                )
        finally:
            workers.close()
        finest = ready.spaces[-1]
        best = ready.located(finest.recipe(result.genome))
        merge_to_folder(plan(parse_recipe(best, where), where), run.folder, resume=True)
        fitness = section.fitness
        honesty = _honesty(sides, result, where, device)
        run.note(
            method=ready.plan.method.name,
            fitness={
                "start": result.start,
                "best": result.best,
                "evaluations": result.evaluations,
                "items": result.items,
                "measure": fitness.scored_by,
                "split": _split(sides),
                "domains": fitness.domains or fitness.benchmarks,
            },
            coefficients=finest.coefficients(result.genome),
            best_recipe=run.relative(best),
            honesty=honesty,
        )
        _write_recipe(run, best, run.folder / "best.yaml")
        if len(section.objectives) > 1:
            members = []
            for member in result.front:
                path = run.folder / "front" / f"{member.candidate}.yaml"
                _write_recipe(run, ready.located(finest.recipe(member.genome)), path)
                members.append({"candidate": member.candidate, "objectives": member.objectives})
            run.note(objectives=section.objectives, front=members)
        write_card(run)
    if honesty["warning"]:
        progress.say(f"warning: {honesty['warning']}")


def _split(sides: "Sides") -> str:
    """The files that candidates were scored on."""
    data = sides.ready.section.fitness.data
    if data is not None:
        return Path(data).name
    return ", ".join(f"{exam.path.parent.name}/{exam.path.name}" for exam in sides.fitness)


def _honesty(sides: "Sides", result: "Result", where: str, device: str) -> dict[str, Any]:
    """Start and best on the items of the fitness, and on as many of the test, where there is one.

    The test is looked at once, when the search has ended.
    """
    from smelt.evals.candidates import Candidates
    from smelt.search.honesty import Side, compare_sides
    from smelt.search.space import carry

    candidates, ready = Candidates(sides, where, device), sides.ready

    def values(genome: list[float]) -> list[list[float]]:
        """On each side."""
        candidates.become(genome)
        return [scores(list(range(len(scores.weights))))[0] for scores in asked]

    asked = [scores for scores in (candidates.fitness, candidates.test) if scores is not None]
    start: list[list[float]] | list[None] = [None] * len(asked)
    if result.start is not None:
        start = values(carry(ready.start(), ready.spaces[0], ready.spaces[-1]))
    best = values(result.genome)
    found = [
        Side(scores.names, scores.weights, before, after)
        for scores, before, after in zip(asked, start, best, strict=True)
    ]
    fitness, test = found[0], found[1] if len(found) > 1 else None
    return compare_sides(fitness, test, ready.section.fitness.scored_by)


def _write_recipe(run: Run, recipe: dict[str, Any], path: Path) -> None:
    import yaml

    path.parent.mkdir(exist_ok=True)
    text = yaml.safe_dump(run.relative(recipe), sort_keys=True, allow_unicode=True)
    path.write_text(BEST + text, encoding="utf-8")


search = recipe_verb("search", execute)
