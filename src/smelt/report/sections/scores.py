"""Scores: models by benchmarks over seeds, who beats whom, and how well texts are predicted."""

from typing import Any

from markupsafe import Markup

from smelt.report import plots
from smelt.report.details import cautions, details_of, subjects_of
from smelt.report.evaluated import likelihoods_of, rows_of, text_names
from smelt.report.records import EvalRecord
from smelt.report.stages import Stage, by_name
from smelt.report.statements import claims, summary
from smelt.report.tables import Column, Row, columns

MAX_FOREST = 4  # groups drawn as plots; the table shows all


def _forest(name: str, rows: list[Row], column: Column) -> Markup:
    bars = [(row.model, *row.cells[column].limits, row.role) for row in rows if column in row.cells]
    label = f"{column.name}{' mean' if column.group else ''}: accuracy, 95 % interval"
    return Markup(plots.scores(name, bars, label))


def _floor(group: list[tuple[Stage, EvalRecord]], shown: list[Column]) -> dict[Column, float]:
    """Accuracy of always giving a benchmark's most frequent answer, mean over seeds."""
    found: dict[Column, float] = {}
    for column in shown:
        values = [
            record.majority[name]
            for _, record in group
            for name in (record.groups.get(column.name, []) if column.group else [column.name])
            if name in record.majority
        ]
        if values:
            found[column] = sum(values) / len(values)
    return found


def _table(number: int, name: str, group: list[tuple[Stage, EvalRecord]]) -> dict[str, Any] | None:
    rows, texts = rows_of(group), likelihoods_of(group)
    if not rows and not texts:
        return None
    found, details = claims(rows), details_of(group)
    shown = columns(rows)
    drawn = [column for column in shown if column.group][:MAX_FOREST]
    return {
        "name": name,
        "seeds": [stage.seed for stage, _ in group],
        "rows": rows,
        "columns": shown,
        "falling": {column for row in rows for column, cell in row.cells.items() if cell.falling},
        "summary": summary(found),
        "claims": found,
        "plots": [
            _forest(f"scores-{number}-{index}", rows, column) for index, column in enumerate(drawn)
        ],
        "floor": _floor(group, shown),
        "cautions": cautions(details),
        "details": [detail for detail in details if detail.says_more],
        "pass_names": sorted({k for detail in details for k in detail.pass_at}, key=int),
        "subjects": subjects_of(details),
        "texts": texts,
        "text_names": text_names(texts),
    }


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """One table for each eval stage; None without one."""
    groups = by_name(stages, EvalRecord)
    found = [_table(index, name, group) for index, (name, group) in enumerate(groups.items())]
    tables = [table for table in found if table is not None]
    return {"id": "scores", "title": "Scores", "tables": tables} if tables else None
