"""Comparisons: two models on the same items, and whether the difference is real."""

from dataclasses import dataclass
from typing import Any

from smelt.core.interval import decided, seeds_interval, student
from smelt.report.evaluated import same_items
from smelt.report.records import Comparison, EvalRecord
from smelt.report.stages import Stage, by_name

SURE = 0.05


@dataclass(frozen=True)
class Compared:
    """A pair of models on a benchmark over the seeds: mean difference (second minus first), its
    interval over items, and of each seed: difference, p, p after Holm, items won and lost."""

    models: tuple[str, str]
    benchmark: str
    difference: float
    low: float
    high: float
    seeds: list[tuple[int, Comparison, float]]
    verdict: str

    @property
    def text(self) -> str:
        """What may be said."""
        first, second = self.models
        return {"beats": f"{second} is better", "loses": f"{first} is better"}.get(
            self.verdict, "not told apart"
        )


def holm(values: list[float]) -> list[float]:
    """p values corrected for their number (Holm 1979): then the chance that any of them is below
    0.05 by accident is at most 0.05."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    found, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        found[place] = least
    return found


def _verdict(seeds: list[Comparison], low: float, high: float) -> str:
    ranges = [(low, high)]
    if len(seeds) > 1:
        ranges.append(student([seed.difference for seed in seeds]))
    # Seeds of which each repeats the first say no more than it does.
    differ = len({seed.difference for seed in seeds}) > 1
    return ((differ or seeds[0].p < SURE) and decided(ranges)) or "even"


def compared(group: list[tuple[Stage, EvalRecord]]) -> list[Compared]:
    """The comparisons of an eval stage, each over its seeds."""
    found: dict[tuple[tuple[str, str], str], list[tuple[int, Comparison, float]]] = {}
    for stage, record in group:
        corrected = holm([row.p for row in record.comparisons])
        for row, p in zip(record.comparisons, corrected, strict=True):
            found.setdefault((row.models, row.benchmark), []).append((stage.seed, row, p))
    rows, repeated = [], same_items(group)
    for (models, benchmark), seeds in found.items():
        parts = [row for _, row, _ in seeds]
        mean = sum(row.difference for row in parts) / len(parts)
        cells = [(row.difference, row.low, row.high) for row in parts]
        low, high = seeds_interval(cells, same_items=repeated)
        verdict = _verdict(parts, low, high)
        rows.append(Compared(models, benchmark, mean, low, high, seeds, verdict))
    return rows


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """One table for each eval stage that compared models; None without one."""
    cards = []
    for name, group in by_name(stages, EvalRecord).items():
        rows = compared(group)
        if rows:
            seeds = [stage.seed for stage, record in group if record.comparisons]
            count = max(len(record.comparisons) for _, record in group)
            cards.append({"name": name, "rows": rows, "seeds": seeds, "count": count})
    return {"id": "compare", "title": "Is the difference real?", "cards": cards} if cards else None
