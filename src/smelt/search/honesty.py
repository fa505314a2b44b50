"""Did the search learn the skill, or its fitness items? The fitness split beside the test split."""

import math
from dataclasses import dataclass
from typing import Any

from smelt.core.interval import Z95


@dataclass(frozen=True)
class Side:
    """Start and best of a search on the items of one split. names: the domain or benchmark of
    each item; weights: its share of the whole; start, best: its values, more is better (no start:
    it failed)."""

    names: list[str]
    weights: list[float]
    start: list[float] | None
    best: list[float]

    def gain(self) -> tuple[float, float]:
        """Weighted mean of best minus start, and the variance of that mean over items drawn."""
        assert self.start is not None
        gains = [b - s for s, b in zip(self.start, self.best, strict=True)]
        total = math.fsum(self.weights)
        mean = math.fsum(w * g for w, g in zip(self.weights, gains, strict=True)) / total
        parts: dict[str, list[tuple[float, float]]] = {}
        for name, weight, gain in zip(self.names, self.weights, gains, strict=True):
            parts.setdefault(name, []).append((weight / total, gain))
        variance = 0.0
        for part in parts.values():  # items are drawn within each domain
            share = math.fsum(weight for weight, _ in part)
            own = math.fsum(weight * gain for weight, gain in part) / share
            factor = len(part) / max(1, len(part) - 1)
            variance += factor * math.fsum((w * (g - own)) ** 2 for w, g in part)
        return mean, variance

    def mean(self, values: list[float], name: str) -> float:
        """Mean of the items of one name."""
        own = [
            (w, v) for n, w, v in zip(self.names, self.weights, values, strict=True) if n == name
        ]
        return math.fsum(w * v for w, v in own) / math.fsum(w for w, _ in own)


def compare_sides(fitness: Side, test: Side | None, measure: str) -> dict[str, Any]:
    """The record: both splits by name, and how much of the gain did not carry over.

    optimism: gain on the fitness split minus gain on the test split, over the names that both
    have; error: the half width of its 95 % interval; warning: a sentence when the optimism is
    beyond chance.
    """
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(fitness.names):
        row: dict[str, Any] = {"name": name}
        for split, side in (("fitness", fitness), ("test", test)):
            if side is not None and name in side.names:
                if side.start is not None:
                    row[f"start_{split}"] = round(side.mean(side.start, name), 4)
                row[f"best_{split}"] = round(side.mean(side.best, name), 4)
        rows.append(row)
    record: dict[str, Any] = {"measure": measure, "rows": rows, "optimism": None, "error": None}
    shared = [] if test is None else [name for name in fitness.names if name in test.names]
    if test is None or not shared:
        record["warning"] = (
            "no test split is at hand, so nothing here says whether the gain is more than a fit "
            "to the fitness items"
        )
        return record
    if fitness.start is None:
        record["warning"] = "the start failed, so nothing says what was gained on either split"
        return record
    (gain, one), (kept, other) = _only(fitness, set(shared)).gain(), test.gain()
    optimism, error = gain - kept, Z95 * math.sqrt(one + other)
    record |= {"optimism": round(optimism, 4), "error": round(error, 4), "warning": None}
    if optimism > max(error, 1e-9):
        record["warning"] = (
            f"of a gain of {gain:.4f} on the fitness split, {optimism:.4f} (+- {error:.4f}) did "
            "not carry over to the test split: the search fitted its items"
        )
    return record


def _only(side: Side, names: set[str]) -> Side:
    keep = [place for place, name in enumerate(side.names) if name in names]
    return Side(
        [side.names[i] for i in keep], [side.weights[i] for i in keep],
        side.start and [side.start[i] for i in keep], [side.best[i] for i in keep],
    )  # fmt: skip
