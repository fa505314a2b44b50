"""Search: candidates, best so far, Pareto front, coefficients, and fitness beside the test."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from markupsafe import Markup

from smelt.report import heat, plots
from smelt.report.evaluated import rows_of
from smelt.report.records import EvalRecord, JournalRow, SearchRecord, read_lines
from smelt.report.stages import JOURNAL, Stage, by_name

MAX_FRONT = 30  # members listed; the plot shows all


@dataclass(frozen=True)
class Seen:
    """One seed's search: its record and what its journal says."""

    stage: Stage
    record: SearchRecord
    rows: list[JournalRow]

    @property
    def whole(self) -> int | None:
        """Items of a candidate that was measured on all of them; None in an old journal."""
        return max((row.items for row in self.rows if row.items is not None), default=None)

    def early(self, row: JournalRow) -> bool:
        """Did the candidate drop out of a race, so that its fitness is an estimate?"""
        return row.items is not None and self.whole is not None and row.items < self.whole


def _best(seen: Seen) -> list[float | None]:
    """Best fitness so far on all items after each candidate."""
    top: float | None = None
    found = []
    for row in seen.rows:
        if row.fitness is not None and not seen.early(row) and (top is None or row.fitness > top):
            top = row.fitness
        found.append(top)
    return found


def _course(seen: Seen, xs: list[float], start: float | None) -> plots.Course:
    points: dict[bool, list[plots.Point]] = {True: [], False: []}
    for x, row in zip(xs, seen.rows, strict=True):
        if row.fitness is not None:
            points[seen.early(row)].append((x, row.fitness))
    best = [(x, top) for x, top in zip(xs, _best(seen), strict=True) if top is not None]
    return plots.Course(points[False], points[True], best, start)


def _start(seen: Seen) -> float | None:
    if seen.record.fitness is not None:
        return seen.record.fitness.start
    return seen.rows[0].fitness if seen.rows else None


def _plots(name: str, group: list[Seen]) -> list[Markup]:
    """Best so far over candidates, and over item evaluations where a race saved some."""
    shown = [seen for seen in group if any(row.fitness is not None for row in seen.rows)]
    if not shown:
        return []
    by_candidate = {
        seen.stage.seed: _course(seen, [float(row.candidate) for row in seen.rows], _start(seen))
        for seen in shown
    }
    stages = sorted(
        {
            float(row.candidate)
            for seen in shown
            for before, row in zip(seen.rows, seen.rows[1:], strict=False)
            if row.stage != before.stage
        }
    )
    found = [Markup(plots.search_progress(name, by_candidate, stages=stages))]
    if any(seen.early(row) for seen in shown for row in seen.rows):
        by_item = {
            seen.stage.seed: _course(
                seen, [float(n) for n in accumulate(row.items or 0 for row in seen.rows)], None
            )
            for seen in shown
        }
        found.append(
            Markup(plots.search_progress(f"{name}-items", by_item, xlabel="item evaluations"))
        )
    return found


def _objectives(record: SearchRecord, count: int) -> list[str]:
    """Names of the objectives, or their numbers while the search still runs."""
    if len(record.objectives) == count:
        return record.objectives
    return [f"objective {number + 1}" for number in range(count)]


def _beaten(one: list[float], other: list[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _front(name: str, seen: Seen) -> dict[str, Any] | None:
    """The Pareto front: as the record says, or of a running search from its journal."""
    measured = [
        (row.candidate, row.objectives)
        for row in seen.rows
        if row.objectives is not None and len(row.objectives) > 1 and not seen.early(row)
    ]
    members = [(one.candidate, one.objectives) for one in seen.record.front]
    if not members or len(members[0][1]) < 2:
        members = [
            pair for pair in measured if not any(_beaten(pair[1], one) for _, one in measured)
        ]
    if not members:
        return None
    names = _objectives(seen.record, len(members[0][1]))
    members = sorted(members, key=lambda pair: pair[1], reverse=True)
    drawn = [
        Markup(
            plots.front(
                f"{name}-{seen.stage.seed}-{axis}",
                [(values[axis], values[0]) for _, values in members],
                [(values[axis], values[0]) for _, values in measured],
                (names[axis], names[0]),
            )
        )
        for axis in range(1, len(names))
    ]
    return {
        "names": names,
        "members": [
            (number, [f"{value:.5g}" for value in values]) for number, values in members[:MAX_FRONT]
        ],
        "left_out": max(0, len(members) - MAX_FRONT),
        "plots": drawn,
    }


def _tested(searched: Stage, stages: list[Stage]) -> list[tuple[str, float]]:
    """(group or benchmark, test accuracy) of the searched model, from evals of its seed."""
    found: list[tuple[str, float]] = []
    for stage in stages:
        record = stage.record
        if not isinstance(record, EvalRecord) or stage.seed != searched.seed:
            continue
        key = searched.record.key
        names = [name for name, entry in record.inputs.items() if entry.key == key]
        names = [name.removeprefix("models.") for name in names]
        names = [name for name in [*names, searched.name] if name in record.scores][:1]
        rows = [row for row in rows_of([(stage, record)]) if row.model in names]
        cells = [(column, cell) for row in rows for column, cell in row.cells.items()]
        grouped = [pair for pair in cells if pair[0].group]
        for column, cell in grouped or cells:
            found.append((column.name + (" mean" if column.group else ""), cell.mean))
    return found


def _honesty(record: SearchRecord) -> dict[str, Any] | None:
    """Fitness and test split side by side, each with what the search gained on it."""
    honesty = record.honesty
    if honesty is None or not honesty.rows:
        return None

    def gain(start: float | None, best: float | None) -> float | None:
        return None if start is None or best is None else best - start

    rows = [
        (row, gain(row.start_fitness, row.best_fitness), gain(row.start_test, row.best_test))
        for row in honesty.rows
    ]
    return {"found": honesty, "rows": rows}


def _seed(name: str, seen: Seen, stages: list[Stage]) -> dict[str, Any]:
    fitness, rows = seen.record.fitness, seen.rows
    scored = [row for row in rows if row.fitness is not None]
    best = fitness.best if fitness else next((top for top in _best(seen)[::-1] if top is not None),
                                             None)  # fmt: skip
    items = sum(row.items or 0 for row in rows)
    plain = (seen.whole or 0) * len(rows)
    return {
        "seed": seen.stage.seed,
        "running": seen.record.running,
        "start": _start(seen),
        "best": best,
        "split": fitness.split if fitness else None,
        "evaluations": len(rows) or (fitness.evaluations if fitness else None),
        "failed": len(rows) - len(scored),
        "early": sum(seen.early(row) for row in rows),
        "measured": items or (fitness.items if fitness else None),
        "saved": 1 - items / plain if plain else None,
        "tests": [
            (label, value, None if best is None else value - best)
            for label, value in _tested(seen.stage, stages)
        ],
        "honesty": _honesty(seen.record),
        "heat": heat.table(seen.record.coefficients) if seen.record.coefficients else None,
        "front": _front(f"front-{name}", seen),
    }


def _card(
    number: int, name: str, group: list[tuple[Stage, SearchRecord]], stages: list[Stage]
) -> dict[str, Any]:
    group_seen = [
        Seen(stage, record,
             read_lines(JournalRow, stage.folder / JOURNAL, growing=record.running))
        for stage, record in group
    ]  # fmt: skip
    return {
        "name": name,
        "method": group[0][1].method,
        "plots": _plots(f"search-{number}", group_seen),
        "raced": any(seen.early(row) for seen in group_seen for row in seen.rows),
        "staged": any(row.stage for seen in group_seen for row in seen.rows),
        "seeds": [_seed(str(number), seen, stages) for seen in group_seen],
    }


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """One card for each search stage; None without one."""
    groups = by_name(stages, SearchRecord)
    cards = [
        _card(index, name, group, stages) for index, (name, group) in enumerate(groups.items())
    ]
    return {"id": "search", "title": "Search", "cards": cards} if cards else None
