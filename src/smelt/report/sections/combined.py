"""Combined skills: what merged models gain over the best expert on tasks that need two skills."""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from smelt.core.interval import decided, seeds_interval, student
from smelt.report import plots
from smelt.report.evaluated import roles_of, same_items
from smelt.report.records import EvalRecord, Gain
from smelt.report.stages import Stage, by_name
from smelt.report.tables import ranked

MAX_PLOTS = 6  # models drawn; the table shows all
MAX_NAME = 26  # characters of a pair beside a plot


@dataclass(frozen=True)
class Gained:
    """A model on a pair: means over seeds, the interval over items, the gain of each seed."""

    model: str
    role: str
    pair: str
    experts: list[str]
    gain: float
    low: float
    high: float
    seeds: dict[int, float]
    accuracy: float | None
    expert_accuracy: float | None
    twins: dict[str, float]
    independent: float | None

    @property
    def verdict(self) -> str:
        """beats or loses where every interval leaves out 0: over items, and over seeds of which
        there are several; else even."""
        ranges = [(self.low, self.high)]
        if len(self.seeds) > 1:
            ranges.append(student(list(self.seeds.values())))
        return decided(ranges) or "even"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) and known else None


def gained(group: list[tuple[Stage, EvalRecord]]) -> list[Gained]:
    """The gains of an eval stage over its seeds, models by role, pairs in their order."""
    found: dict[str, dict[str, list[tuple[int, Gain]]]] = {}
    for stage, record in group:
        for row in record.combined:
            found.setdefault(row.model, {}).setdefault(row.pair, []).append((stage.seed, row))
    roles, repeated = roles_of(group), same_items(group)
    return [
        _gained(model, roles.get(model, ""), pair, seeds, repeated)
        for model in ranked(list(found), roles)
        for pair, seeds in found[model].items()
    ]


def _gained(
    model: str, role: str, pair: str, seeds: list[tuple[int, Gain]], repeated: bool
) -> Gained:
    rows = [row for _, row in seeds]
    cells = [(row.gain, row.low, row.high) for row in rows]
    low, high = seeds_interval(cells, same_items=repeated)
    skills = dict.fromkeys(skill for row in rows for skill in row.twins)
    twins = {skill: _mean([row.twins.get(skill) for row in rows]) for skill in skills}
    return Gained(
        model,
        role,
        pair,
        list(dict.fromkeys(row.best_expert for row in rows)),
        sum(row.gain for row in rows) / len(rows),
        low,
        high,
        {seed: row.gain for seed, row in seeds},
        _mean([row.accuracy for row in rows]),
        _mean([row.expert_accuracy for row in rows]),
        {skill: value for skill, value in twins.items() if value is not None},
        _mean([row.independent for row in rows]),
    )


def _line(rows: list[Gained]) -> tuple[str, str]:
    """(model, what its gains say together)."""
    mean = sum(row.gain for row in rows) / len(rows)
    above, below = (sum(row.verdict == word for row in rows) for word in ("beats", "loses"))
    text = (
        f"better than every expert on {above} of {len(rows)} pair{'s' if len(rows) != 1 else ''}, "
        f"worse than the best on {below}; mean gain {100 * mean:+.1f} points"
    )
    return rows[0].model, text


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _card(number: int, name: str, group: list[tuple[Stage, EvalRecord]]) -> dict[str, Any] | None:
    rows = gained(group)
    models = {model: [row for row in rows if row.model == model]
              for model in dict.fromkeys(row.model for row in rows)}  # fmt: skip
    if not rows:
        return None
    drawn = []
    for index, (model, own) in enumerate(list(models.items())[:MAX_PLOTS]):
        bars = [
            (_short(row.pair), 100 * row.gain, 100 * row.low, 100 * row.high, row.verdict)
            for row in own
        ]
        label = f"{model}: gain over the best expert, points"
        drawn.append(Markup(plots.gains(f"gain-{number}-{index}", bars, label)))
    return {
        "name": name,
        "seeds": [stage.seed for stage, record in group if record.combined],
        "lines": [_line(own) for own in models.values()],
        "plots": drawn,
        "left_out": len(models) - len(drawn),
        "rows": rows,
    }


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """One card for each eval stage with combined skills; None without one."""
    groups = by_name(stages, EvalRecord)
    found = [_card(index, name, group) for index, (name, group) in enumerate(groups.items())]
    cards = [card for card in found if card is not None]
    return {"id": "combined", "title": "Combined skills", "cards": cards} if cards else None
