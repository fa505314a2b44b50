"""Loss curves of every training and fusion stage, with their phases."""

import math
from typing import Any

from markupsafe import Markup

from smelt.report import plots
from smelt.report.records import MetricRow, TrainRecord, read_lines
from smelt.report.stages import Stage, by_name


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _flat(data: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in sorted(data.items()):
        if isinstance(value, dict):
            found.extend(_flat(value, f"{prefix}{key}."))
        else:
            found.append((prefix + key, _number(value)))
    return found


def _phases(rows: list[MetricRow]) -> list[tuple[float, str]]:
    """(first step, label) of each run of rows with one phase; none when there is a single one."""
    found: list[tuple[float, str]] = []
    last: object = None
    for row in rows:
        label = "" if row.phase is None else str(row.phase)
        if not found or label != last:
            found.append((float(row.step), label))
            last = label
    return found if len(found) > 1 or (found and found[0][1]) else []


def _card(number: int, name: str, group: list[tuple[Stage, TrainRecord]]) -> dict[str, Any] | None:
    seeds: dict[int, list[plots.Point]] = {}
    phases: list[tuple[float, str]] = []
    stride, bad = 1, 0
    for stage, _ in group:
        rows = read_lines(MetricRow, stage.folder / "metrics.jsonl")
        finite = [(float(row.step), row.loss) for row in rows if math.isfinite(row.loss)]
        bad += len(rows) - len(finite)
        phases = phases or _phases(rows)
        if finite:
            seeds[stage.seed], taken = plots.thin(finite)
            stride = max(stride, taken)
    facts = [
        (f"seed {stage.seed}", _flat(record.metrics), record.parameters) for stage, record in group
    ]
    details = [
        (f"seed {stage.seed}", _flat({"alignment": record.alignment, "chosen": record.chosen}))
        for stage, record in group
        if record.alignment or record.chosen
    ]
    if not seeds and not any(rows for _, rows, _ in facts):
        return None
    return {
        "name": name,
        "verb": group[0][1].verb,
        "plot": Markup(plots.losses(f"loss-{number}", seeds, phases)) if seeds else None,
        "stride": stride,
        "bad": bad,
        "facts": facts,
        "details": details,
    }


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """One card for each stage that trained; None without one."""
    groups = by_name(stages, TrainRecord)
    found = [_card(index, name, group) for index, (name, group) in enumerate(groups.items())]
    cards = [card for card in found if card is not None]
    return {"id": "losses", "title": "Training", "cards": cards} if cards else None
