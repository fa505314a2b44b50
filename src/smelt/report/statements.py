"""Sentences about who beats whom: the measured gap, and whether seeds and items support it."""

from dataclasses import dataclass
from typing import Literal

from smelt.core.interval import difference_interval, student
from smelt.report.tables import Column, Row, best_expert, columns

EXPERT, CONTROL, REFERENCE = "the best expert", "the control", "the reference"
Verdict = Literal["beats", "ahead", "even", "behind", "loses"]


@dataclass(frozen=True)
class Claim:
    """One comparison on one column: `verdict` is beats or loses only if the intervals agree.

    gap: mean over seeds of model minus rival, in accuracy; seeds: the gap of each seed.
    """

    model: str
    rival: str
    against: str
    column: Column
    gap: float
    seeds: dict[int, float]
    verdict: Verdict
    text: str


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def _range(limits: tuple[float, float]) -> str:
    return f"[{_points(limits[0])}, {_points(limits[1])}]"


def _verdict(gap: float, ranges: list[tuple[float, float]]) -> Verdict:
    if all(low > 0 for low, _ in ranges):
        return "beats"
    if all(high < 0 for _, high in ranges):
        return "loses"
    # Below a hundredth of a point the printed numbers are equal.
    return "even" if abs(gap) < 5e-5 else ("ahead" if gap > 0 else "behind")


VERBS: dict[Verdict, str] = {
    "beats": "beats {rival}",
    "ahead": "is ahead of {rival}, but not by more than chance allows,",
    "even": "equals {rival}",
    "behind": "does not beat {rival}: it is behind, but not by more than chance allows,",
    "loses": "does not beat {rival}: it loses",
}


def compare(row: Row, rival: Row, column: Column, title: str) -> Claim | None:
    """The claim about two rows in a column, or None when no seed has both.

    "Beats" needs both intervals above 0: that of the paired differences over seeds (Student, two
    seeds or more) and that of the test items. With one seed the items alone decide, and the
    sentence says that nothing is known of other seeds.
    """
    one, other = row.cells.get(column), rival.cells.get(column)
    if one is None or other is None:
        return None
    common = [seed for seed in one.seeds if seed in other.seeds]
    if not common:
        return None
    gaps = {seed: one.seeds[seed] - other.seeds[seed] for seed in common}
    gap = sum(gaps.values()) / len(gaps)
    items = difference_interval(one.limits, other.limits)
    ranges = [items]
    if len(gaps) > 1:
        over = student(list(gaps.values()))
        ranges.append(over)
        ahead = sum(value > 0 for value in gaps.values())
        support = (
            f"ahead in {ahead} of {len(gaps)} seeds; 95 % interval of the paired difference over "
            f"seeds {_range(over)}, over test items {_range(items)}"
        )
    else:
        support = (
            f"one seed: 95 % interval over test items {_range(items)}; "
            "nothing is known of other seeds"
        )
    verdict = _verdict(gap, ranges)
    mean_one = sum(one.seeds[seed] for seed in common) / len(common)
    mean_other = sum(other.seeds[seed] for seed in common) / len(common)
    where = f"{column.name} mean" if column.group else column.name
    text = (
        f"{VERBS[verdict].format(rival=f'{title} ({rival.model})')} on the {where} by "
        f"{_points(gap)} points ({mean_one:.3f} against {mean_other:.3f}; {support})."
    )
    return Claim(row.model, rival.model, title, column, gap, gaps, verdict, text)


def claims(rows: list[Row]) -> list[Claim]:
    """Merges and fused models against the best expert; fused ones against controls; the best
    merge against each reference.

    Compared on the means of the recorded groups, or on each benchmark when there are no groups.
    """
    shown = [column for column in columns(rows) if column.group] or columns(rows)
    found: list[Claim | None] = []
    for row in rows:
        if row.role not in ("merge", "fused"):
            continue
        for column in shown:
            expert = best_expert(rows, column)
            if expert is not None:
                found.append(compare(row, expert, column, EXPERT))
            if row.role == "fused":
                controls = [other for other in rows if other.role == "control"]
                found += [compare(row, other, column, CONTROL) for other in controls]
    for column in shown:
        merges = [row for row in rows if row.role == "merge" and column in row.cells]
        best = max(merges, key=lambda row: row.cells[column].mean, default=None)
        references = [row for row in rows if row.role == "reference" and best is not None]
        found += [compare(best, other, column, REFERENCE) for other in references if best]
    return [claim for claim in found if claim is not None]


def summary(found: list[Claim]) -> list[str]:
    """For each column: who beats the best expert, who is not told apart, who loses; in points."""
    lines = []
    found = [claim for claim in found if claim.against == EXPERT]
    for column in dict.fromkeys(claim.column for claim in found):
        here = [claim for claim in found if claim.column == column]
        parts = []
        for names, phrase in (
            (("beats",), "shown to beat it"),
            (("ahead",), "ahead within chance"),
            (("even", "behind"), "not ahead"),
            (("loses",), "shown to lose to it"),
        ):
            models = [
                f"{claim.model} ({_points(claim.gap)})" for claim in here if claim.verdict in names
            ]
            if models:
                parts.append(f"{phrase}: {', '.join(models)}")
        where = f"{column.name}{' mean' if column.group else ''} (best expert {here[0].rival})"
        lines.append(f"{where}: " + "; ".join(parts) + ".")
    return lines
