"""The score table: models by benchmarks, over seeds, with 95 % intervals over items."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from smelt.core.interval import mean_interval, seeds_interval, wilson

# scores of one seed: model -> benchmark -> {"correct", "total", and if known "low", "high", ...}
Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
ROLES = ("base", "expert", "merge", "fused", "control", "reference")


class Count(NamedTuple):
    """One seed: sum of scores over items; limits of the mean (None: Wilson's); not a share."""

    correct: float
    total: int
    limits: tuple[float, float] | None = None
    other: bool = False
    falling: bool = False

    @property
    def mean(self) -> float:
        return self.correct / self.total


Counts = dict[int, Count]  # by seed


class Column(NamedTuple):
    """A column of the table: a benchmark, or the mean over a group of benchmarks."""

    name: str
    group: bool = False


@dataclass(frozen=True)
class Cell:
    """Accuracy of one model on one benchmark or group: mean over seeds, each seed, interval.

    other: it is no share of right answers (a metric of lm-eval), falling: and lower is better.
    """

    mean: float
    low: float
    high: float
    seeds: dict[int, float]
    other: bool = False
    falling: bool = False

    @property
    def limits(self) -> tuple[float, float, float]:
        return self.mean, self.low, self.high


@dataclass(frozen=True)
class Row:
    """One model of the table. `best` holds the columns in which it is the best expert."""

    model: str
    role: str
    cells: dict[Column, Cell]
    best: frozenset[Column] = frozenset()


def _counted(cell: Mapping[str, float]) -> Count:
    """A cell of a record. Limits are kept unless they are Wilson's, which can be pooled."""
    correct, total = float(cell["correct"]), int(cell["total"])
    other = bool(cell.get("other"))
    if other:
        mean = cell.get("accuracy", correct / total)
        limits = (cell.get("low", mean), cell.get("high", mean))
        return Count(mean * total, total, limits, True, bool(cell.get("falling")))
    correct = min(correct, total)  # a rounded sum
    if "low" not in cell or "high" not in cell:
        return Count(correct, total)
    given, plain = (cell["low"], cell["high"]), wilson(correct, total)
    same = max(abs(one - two) for one, two in zip(given, plain, strict=True)) < 1e-4
    return Count(correct, total, None if same else given)


def _pooled(counts: Counts, same_items: bool) -> Cell:
    """Over seeds: right answers to different items are counted together, else the seeds' intervals
    are joined."""
    seeds = {seed: count.mean for seed, count in counts.items()}
    found = list(counts.values())
    if not same_items and all(count.limits is None and not count.other for count in found):
        total = sum(count.total for count in found)
        low, high = wilson(sum(count.correct for count in found), total)
    else:
        cells = [(count.mean, *(count.limits or wilson(count.correct, count.total)))
                 for count in found]  # fmt: skip
        low, high = seeds_interval(cells, same_items=same_items or len(cells) == 1)
    mean = sum(seeds.values()) / len(seeds)
    other, falling = any(count.other for count in found), any(count.falling for count in found)
    return Cell(mean, low, high, seeds, other, falling)


def _group(members: list[Counts], same_items: bool) -> Cell | None:
    """Mean over benchmarks, for the seeds that have all of them."""
    common = [seed for seed in members[0] if all(seed in counts for counts in members)]
    if not common or any(counts[seed].other for counts in members for seed in common):
        return None  # a mean of shares and other figures is no figure
    cells = [_pooled({seed: counts[seed] for seed in common}, same_items) for counts in members]
    seeds = {seed: sum(cell.seeds[seed] for cell in cells) / len(cells) for seed in common}
    low, high = mean_interval([cell.limits for cell in cells])
    return Cell(sum(seeds.values()) / len(seeds), low, high, seeds)


def _row(
    model: str,
    role: str,
    scores: Mapping[int, Scores],
    groups: Mapping[str, list[str]],
    same_items: bool,
) -> Row:
    counts: dict[str, Counts] = {}
    for seed, of_seed in sorted(scores.items()):
        for benchmark, cell in of_seed.get(model, {}).items():
            if cell["total"] > 0:  # a benchmark without items says nothing
                counts.setdefault(benchmark, {})[seed] = _counted(cell)
    cells: dict[Column, Cell] = {}
    for group, members in groups.items():
        if members and all(member in counts for member in members):
            mean = _group([counts[member] for member in members], same_items)
            if mean is not None:
                cells[Column(group, True)] = mean
    ordered = dict.fromkeys([*(name for members in groups.values() for name in members), *counts])
    known = [name for name in ordered if name in counts]
    cells |= {Column(name): _pooled(counts[name], same_items) for name in known}
    return Row(model, role, cells)


def best_expert(rows: list[Row], column: Column) -> Row | None:
    """The expert with the best mean over seeds in a column; ties go to the first."""
    experts = [row for row in rows if row.role == "expert" and column in row.cells]
    falling = any(row.cells[column].falling for row in experts)
    sign = -1 if falling else 1
    return max(experts, key=lambda row: sign * row.cells[column].mean, default=None)


def ranked(models: list[str], roles: Mapping[str, str]) -> list[str]:
    """Models by role (records are sorted by name, so their order says nothing), then by name."""
    rank = {role: number for number, role in enumerate(ROLES)}
    return sorted(models, key=lambda model: (rank.get(roles.get(model, ""), len(ROLES)), model))


def columns(rows: list[Row]) -> list[Column]:
    """The columns of a table: groups first, then benchmarks, in order of first appearance."""
    found = dict.fromkeys(column for row in rows for column in row.cells)
    return sorted(found, key=lambda column: not column.group)


def score_table(
    scores: Mapping[int, Scores],
    *,
    roles: Mapping[str, str] | None = None,
    groups: Mapping[str, list[str]] | None = None,
    same_items: bool = False,
) -> list[Row]:
    """One row a model: base, experts, merges, fused models, controls, references, others.

    scores: seed -> model -> benchmark -> {"correct", "total"} and what else is known. A mean is
    over the seeds that have the model; a benchmark's interval is Wilson's on the counts pooled over
    seeds, unless these answered the same items (of other scores, and then, it is made from those of
    the seeds), a group's is made from those of its benchmarks. Models without a single counted
    answer are left out.
    """
    roles, groups = roles or {}, groups or {}
    found = list(dict.fromkeys(model for seed in sorted(scores) for model in scores[seed]))
    models = ranked(found, roles)
    rows = [_row(model, roles.get(model, ""), scores, groups, same_items) for model in models]
    rows = [row for row in rows if row.cells]
    best: dict[str, set[Column]] = {row.model: set() for row in rows}
    for column in columns(rows):
        winner = best_expert(rows, column)
        if winner is not None:
            best[winner.model].add(column)
    return [replace(row, best=frozenset(best[row.model])) for row in rows]


def escaped(text: str) -> str:
    """Text for a cell of a markdown table: one line, no markup."""
    flat = " ".join(text.split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")


def _text(row: Row, column: Column) -> str:
    cell = row.cells.get(column)
    if cell is None:
        return "-"
    mark = "**" if column in row.best else ""
    return f"{mark}{cell.mean:.3f}{mark} [{cell.low:.3f}, {cell.high:.3f}]"


def markdown_table(rows: list[Row], only: list[str] | None = None) -> str:
    """The table as markdown: group means first, then benchmarks; the best expert in bold.

    only: keep the columns of these names (a README shows the group means).
    """
    shown = [column for column in columns(rows) if only is None or column.name in only]
    heads = [escaped(column.name) + (" mean" if column.group else "") for column in shown]
    lines = ["| model | role | " + " | ".join(heads) + " |", "|---|---|" + "--:|" * len(shown)]
    for row in rows:
        cells = " | ".join(_text(row, column) for column in shown)
        lines.append(f"| {escaped(row.model)} | {escaped(row.role)} | {cells} |")
    return "\n".join(lines)
