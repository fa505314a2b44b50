"""Data: what each step dropped and why, and how many rows each split holds."""

from typing import Any

from smelt.report.records import DataRecord
from smelt.report.stages import Stage, by_name


def _one(stage: Stage, record: DataRecord) -> dict[str, Any]:
    domains = sorted({domain for counts in record.splits.values() for domain in counts})
    return {
        "seed": stage.seed,
        "steps": record.steps,
        "domains": domains,
        "splits": [
            (split, [counts.get(domain, 0) for domain in domains], sum(counts.values()))
            for split, counts in record.splits.items()
        ],
        "examples": sorted(record.examples_dropped.items()),
    }


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """One card for each data stage; the first seed is open, the others folded."""
    cards = [
        {"name": name, "seeds": [_one(stage, record) for stage, record in group]}
        for name, group in by_name(stages, DataRecord).items()
    ]
    return {"id": "data", "title": "Data", "cards": cards} if cards else None
