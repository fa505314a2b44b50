"""Export: files, their sizes, and how closely each agrees with the checkpoint."""

from typing import Any

from smelt.report.records import ExportRecord
from smelt.report.stages import Stage, by_name


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _one(stage: Stage, record: ExportRecord) -> dict[str, Any]:
    measures = sorted(
        {key for found in record.parity.values() if isinstance(found, dict) for key in found}
    )
    names = [*record.files, *(name for name in record.parity if name not in record.files)]
    rows = []
    for name in names:
        file = record.files.get(name)
        parity = record.parity.get(name, {})
        cells = parity if isinstance(parity, dict) else {}
        rows.append((name, file, [_text(cells[key]) if key in cells else "-" for key in measures]))
    return {"seed": stage.seed, "measures": measures, "rows": rows}


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """One table for each export stage and seed; None without one."""
    cards = [
        {"name": name, "seeds": [_one(stage, record) for stage, record in group]}
        for name, group in by_name(stages, ExportRecord).items()
    ]
    return {"id": "export", "title": "Export parity", "cards": cards} if cards else None
