"""Search: every candidate's fitness, the gap from fitness to test split, and the coefficients."""

from typing import Any

from markupsafe import Markup

from smelt.report import plots
from smelt.report.evaluated import rows_of
from smelt.report.records import Coefficients, EvalRecord, JournalRow, SearchRecord, read_lines
from smelt.report.stages import Stage, by_name


def _heat(value: float, largest: float) -> str:
    """A background for a cell: blue above 0, orange below, as strong as the value is large."""
    strength = 0.0 if largest == 0 else min(1.0, abs(value) / largest)
    red, green, blue = (37, 99, 235) if value >= 0 else (234, 88, 12)
    return f"rgba({red},{green},{blue},{0.08 + 0.62 * strength:.2f})"


def _coefficients(found: Coefficients) -> dict[str, Any] | None:
    """The table with layers down and experts across, for a phone is narrow and models are deep."""
    fits = len(found.values) == len(found.rows) and all(
        len(row) == len(found.columns) for row in found.values
    )
    if not fits or not found.rows:
        return None
    largest = max((abs(value) for row in found.values for value in row), default=0.0)
    body = [
        (layer, [(f"{row[index]:.3f}", _heat(row[index], largest)) for row in found.values])
        for index, layer in enumerate(found.columns)
    ]
    return {"heads": found.rows, "body": body}


def _tested(searched: Stage, stages: list[Stage]) -> list[tuple[str, float]]:
    """(group or benchmark, test accuracy) of the searched model, from evals of its seed."""
    found: list[tuple[str, float]] = []
    for stage in stages:
        record = stage.record
        if not isinstance(record, EvalRecord) or stage.seed != searched.seed:
            continue
        key = searched.record.key
        names = [name for name, entry in record.inputs.items() if entry.key == key]
        names = [name for name in [*names, searched.name] if name in record.scores][:1]
        rows = [row for row in rows_of([(stage, record)]) if row.model in names]
        cells = [(column, cell) for row in rows for column, cell in row.cells.items()]
        grouped = [pair for pair in cells if pair[0].group]
        for column, cell in grouped or cells:
            found.append((column.name + (" mean" if column.group else ""), cell.mean))
    return found


def _card(
    number: int, name: str, group: list[tuple[Stage, SearchRecord]], stages: list[Stage]
) -> dict[str, Any]:
    points: dict[int, list[plots.Point]] = {}
    starts: dict[int, float] = {}
    seeds = []
    for stage, record in group:
        rows = read_lines(JournalRow, stage.folder / "journal.jsonl")
        scored = [(float(row.candidate), row.fitness) for row in rows if row.fitness is not None]
        if scored:
            points[stage.seed] = scored
        fitness = record.fitness
        start = fitness.start if fitness else None
        best = fitness.best if fitness else None
        if start is not None:
            starts[stage.seed] = start
        seeds.append(
            {
                "seed": stage.seed,
                "start": start,
                "best": best,
                "split": fitness.split if fitness else None,
                "evaluations": len(rows) or (fitness.evaluations if fitness else None),
                "failed": len(rows) - len(scored),
                "tests": [
                    (label, value, None if best is None else value - best)
                    for label, value in _tested(stage, stages)
                ],
                "heat": _coefficients(record.coefficients) if record.coefficients else None,
            }
        )
    plot = plots.search_progress(f"search-{number}", points, starts) if points else None
    return {
        "name": name,
        "method": group[0][1].method,
        "plot": Markup(plot) if plot else None,
        "seeds": seeds,
    }


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """One card for each search stage; None without one."""
    groups = by_name(stages, SearchRecord)
    cards = [
        _card(index, name, group, stages) for index, (name, group) in enumerate(groups.items())
    ]
    return {"id": "search", "title": "Search", "cards": cards} if cards else None
