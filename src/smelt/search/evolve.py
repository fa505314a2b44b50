"""Ask, merge in memory, score, tell; every candidate journalled, a killed search replays."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smelt.core import progress
from smelt.core.errors import UserError
from smelt.search.algorithm import Algorithm

# What a candidate that failed counts as: worse than any score, yet a number the algorithm can rank.
WORST = -1e9


@dataclass(frozen=True)
class Result:
    """The best genome, its fitness, that of the start (None: it failed), the number scored."""

    genome: list[float]
    best: float
    start: float | None
    evaluations: int


def _read(journal: Path) -> list[dict[str, Any]]:
    """Complete rows of a journal. A last line cut off by a kill is not a row."""
    if not journal.is_file():
        return []
    text = journal.read_text()
    rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return rows


def evolve(
    algorithm: Algorithm,
    fitness: Callable[[list[float]], float],
    journal: Path,
    *,
    evaluations: int,
    label: str,
) -> Result:
    """Maximise `fitness` over genomes; `evaluations` candidates are scored at most.

    Every candidate is a row of `journal`; rows already there are replayed instead of scored, so
    that the same seed and answers give the same journal, interrupted or not. A candidate that
    raises UserError or scores no number is recorded with its error and counts as the worst.
    """
    known = _read(journal)
    journal.write_text("".join(json.dumps(row) + "\n" for row in known))
    best, best_genome, count = WORST, None, 0
    start: float | None = None
    generation = 0

    with progress.Bar(label, evaluations) as bar, journal.open("a") as stream:

        def score(genome: list[float]) -> float:
            nonlocal best, best_genome, start, count
            if count < len(known):
                row = known[count]
                if row["genome"] != genome:
                    raise UserError(journal, f"row {count} is of another search", "its own journal")
            else:
                value, error = None, None
                try:
                    value = fitness(genome)
                    if not math.isfinite(value):
                        value, error = None, "not a number"
                except UserError as problem:
                    # The tensor, not the recipe's path: journals are the same in every folder.
                    error = f"{problem.where.rpartition(': ')[2]}: {problem.found}"
                top = max(best, WORST if value is None else value)
                row = {"candidate": count, "generation": generation, "genome": genome}
                row |= {"fitness": value, "best": None if top == WORST else top, "error": error}
                stream.write(json.dumps(row) + "\n")
                stream.flush()
            found = WORST if row["fitness"] is None else float(row["fitness"])
            if count == 0:
                start = row["fitness"]
            if found > best:
                best, best_genome = found, genome
            count += 1
            bar.move()
            return found

        while True:
            genomes = algorithm.ask()
            room = evaluations - count - len(algorithm.final())
            if len(genomes) > room:
                break  # a part of a population cannot be told
            algorithm.tell(genomes, [score(genome) for genome in genomes])
            generation += 1
        # A budget below one population still scores what it can, the start first.
        last = genomes[: max(1, room)] if count == 0 else []
        for genome in [*last, *algorithm.final()][: evaluations - count]:
            score(genome)
    if best_genome is None:
        raise UserError(journal, "no candidate could be scored", "a start that merges")
    return Result(best_genome, best, start, count)
