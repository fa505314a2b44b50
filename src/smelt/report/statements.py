"""Sentences about who beats whom: the measured gap, and whether seeds and items support it."""

from dataclasses import dataclass
from typing import Literal

from smelt.core.interval import decided, difference_interval, student
from smelt.report.tables import Column, Row, best_expert, columns

EXPERT, CONTROL, REFERENCE = "the best expert", "the control", "the reference"
KINDS = (EXPERT, CONTROL, REFERENCE)
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
    if sure := decided(ranges):
        return sure
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
    """The claim about two rows in a column, or None when no seed has both, or no accuracy.

    "Beats" needs both intervals above 0: that of the paired differences over seeds (Student, two
    seeds or more) and that of the test items. With one seed the items alone decide, and the
    sentence says that nothing is known of other seeds.
    """
    one, other = row.cells.get(column), rival.cells.get(column)
    if one is None or other is None or one.other or other.other:
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
    """Every merge and fused model against the best expert and each reference, fused ones against
    each control too. None is picked by its result: each is compared, so each is counted.

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
            for role, title in (("control", CONTROL), ("reference", REFERENCE)):
                if role == "reference" or row.role == "fused":
                    rivals = [other for other in rows if other.role == role]
                    found += [compare(row, rival, column, title) for rival in rivals]
    return [claim for claim in found if claim is not None]


PHRASES: tuple[tuple[tuple[Verdict, ...], str], ...] = (
    (("beats",), "shown to beat it"),
    (("ahead",), "ahead within chance"),
    (("even", "behind"), "not ahead"),
    (("loses",), "shown to lose to it"),
)


def summary(found: list[Claim]) -> list[str]:
    """A line for each column and rival: who beats it, who is not told apart, who loses; points."""
    lines = []
    for column in dict.fromkeys(claim.column for claim in found):
        on_column = [claim for claim in found if claim.column == column]
        order = [(kind, claim.rival) for kind in KINDS for claim in on_column
                 if claim.against == kind]  # fmt: skip
        for against, rival in dict.fromkeys(order):
            here = [c for c in on_column if (c.against, c.rival) == (against, rival)]
            parts = []
            for verdicts, phrase in PHRASES:
                models = [f"{c.model} ({_points(c.gap)})" for c in here if c.verdict in verdicts]
                if models:
                    parts.append(f"{phrase}: {', '.join(models)}")
            where = f"{column.name}{' mean' if column.group else ''}"
            lines.append(f"{where}, against {against} ({rival}): {'; '.join(parts)}.")
    return lines
