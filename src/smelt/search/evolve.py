"""Ask, measure, tell; every candidate journalled, a killed search replays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smelt.core import progress
from smelt.core.errors import UserError
from smelt.search.algorithm import Algorithm
from smelt.search.candidate import Candidate
from smelt.search.front import Member, joined
from smelt.search.items import Items
from smelt.search.measured import Log
from smelt.search.race import everything, race
from smelt.search.recipe import Racing
from smelt.search.schedule import Schedule
from smelt.search.workers import Pool


@dataclass(frozen=True)
class Result:
    """The best genome, its number, its fitness (first objective, on all items), that of the start
    (None: it failed), candidates and item evaluations, the Pareto front of all that was measured
    on all items (of one objective: the best)."""

    genome: list[float]
    candidate: int
    best: float
    start: float | None
    evaluations: int
    items: int
    front: list[Member]


class _Course:
    """What the candidates gave, taken in by their order: journal, best so far, front."""

    def __init__(self, log: Log, weights: list[float], stage: int, bar: progress.Bar) -> None:
        self.log, self.weights, self.stage, self.bar = log, weights, stage, bar
        self.first, self.items = log.candidates, 0
        self.best: Candidate | None = None
        self.start: float | None = None
        self.front: list[Member] = []
        self._early: dict[int, tuple[Candidate, list[float]]] = {}

    def settle(self, candidate: Candidate, values: list[float]) -> None:
        """Its values stand; its row is written as soon as all candidates before it have theirs."""
        self._early[candidate.number] = candidate, values
        while self.log.candidates in self._early:
            self._row(*self._early.pop(self.log.candidates))

    def _row(self, one: Candidate, values: list[float]) -> None:
        ok = one.error is None
        if ok and len(one.seen) == len(self.weights):
            self.front = joined(self.front, Member(one.number, one.genome, values))
            if self.best is None or values[0] > self.best.mean(self.weights):
                self.best = one
            if self.log.best is None or values[0] > self.log.best:
                self.log.best = values[0]
        if one.number == self.first and ok:
            self.start = values[0]
        row = {"stage": self.stage, "candidate": one.number, "generation": one.generation,
               "genome": one.genome, "fitness": values[0] if ok else None}  # fmt: skip
        if one.objectives > 1:
            row["objectives"] = values if ok else None
        row |= {"items": len(one.seen), "best": self.log.best, "error": one.error}
        self.log.write(row)
        self.items += len(one.seen)
        if self.log.best is not None:
            size = f", front {len(self.front)}" if one.objectives > 1 else ""
            self.bar.note(f"best {self.log.best:.4f}{size}")
        self.bar.move()


def evolve(
    algorithm: Algorithm,
    pool: Pool,
    log: Log,
    *,
    weights: list[float],
    evaluations: int,
    label: str,
    groups: Sequence[str] | None = None,
    objectives: int = 1,
    racing: Racing | None = None,
    stage: int = 0,
    lag: int | None = None,
    expand: Callable[[list[float]], list[float]] = list,
) -> Result:
    """Maximise over genomes; `evaluations` candidates are measured at most.

    weights: of the items, sum 1; the value of a candidate is the weighted mean over them. stage:
    of several that share a log and a pool. expand: from a genome to what the workers measure.
    lag: how many generations are asked before the oldest one in flight is told; unless given 1
    with several workers, so that none idles while another has a slow candidate, and 0 with one.
    The journal depends on it, and never on the number of workers or on timing.

    A candidate that cannot be merged or scores no number is recorded with its error and counts as
    the worst. Raises UserError when all of them failed.
    """
    assert racing is None or objectives == 1, "a race of several objectives"
    lag = int(pool.workers > 1) if lag is None else lag
    with progress.Bar(label, evaluations) as bar:
        course = _Course(log, weights, stage, bar)
        items = Items(weights, groups or [""] * len(weights), course.first)

        def measured(one: Candidate) -> None:
            if one.whole:
                course.settle(one, one.values(weights))

        schedule = Schedule(pool, log, expand, measured)
        asked = generation = 0

        def begin(genomes: list[list[float]], *, whole: bool) -> None:
            nonlocal asked, generation
            made = [
                Candidate(course.first + asked + n, generation, genome, objectives, whole)
                for n, genome in enumerate(genomes)
            ]
            asked, generation = asked + len(made), generation + 1
            if racing is None or whole:
                schedule.begin(made, everything(made, weights))
            else:
                schedule.begin(made, race(made, items, racing, lambda: course.best))

        left: list[list[float]] | None = None  # a generation that was asked and does not fit
        while True:
            while left is None and len(schedule) <= lag:
                genomes = algorithm.ask()
                if len(genomes) > evaluations - asked - len(algorithm.final()):
                    left = genomes  # a part of a population cannot be told
                else:
                    begin(genomes, whole=racing is None)
            if not len(schedule):
                break
            done, told = schedule.oldest()
            if racing is not None:
                for one, values in zip(done, told, strict=True):
                    course.settle(one, values)
            algorithm.tell([one.genome for one in done], told)
        # A budget below one population still measures what it can, the start first.
        room = max(1, evaluations - asked - len(algorithm.final()))
        rest = (left or [])[:room] if asked == 0 else []
        rest = [*rest, *algorithm.final()][: evaluations - asked]
        if rest:
            begin(rest, whole=True)
            schedule.oldest()
    if course.best is None:
        raise UserError(log.path, "no candidate could be scored", "a start that merges")
    best = course.best
    return Result(
        best.genome,
        best.number,
        best.mean(weights),
        course.start,
        asked,
        course.items,
        course.front,
    )
