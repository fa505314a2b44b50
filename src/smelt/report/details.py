"""What stands behind an accuracy: how it was asked, how answers were read, how long they were."""

from collections import Counter
from dataclasses import dataclass, field

from smelt.report.evaluated import roles_of
from smelt.report.records import EvalRecord, Score
from smelt.report.stages import Stage
from smelt.report.tables import ranked

Group = list[tuple[Stage, EvalRecord]]


@dataclass(frozen=True)
class Detail:
    """One model on one benchmark: shares and lengths are means over seeds, counts are sums.

    answers: of which an item may have several; reasons: of all that are not right.
    """

    model: str
    benchmark: str
    form: str
    more: str
    answers: int
    unparsed: int
    reasons: dict[str, int]
    length: float | None
    unfinished: int
    truncated: int
    readings: dict[str, float]
    pass_at: dict[str, float]
    subjects: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def says_more(self) -> bool:
        """Whether there is anything that the score table does not say."""
        facts = (self.form, self.more, self.reasons, self.readings, self.pass_at)
        return self.length is not None or any(facts)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _means(parts: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _mean([part[name] for part in parts if name in part]) for name in names}


def _form(score: Score) -> str:
    """e.g. `base, 4 shots`; empty for an old record."""
    parts = [score.form] if score.form else []
    if score.shots is not None:
        parts.append(f"{score.shots} shot{'s' if score.shots != 1 else ''}")
    return ", ".join(parts)


def _more(score: Score) -> str:
    """e.g. `3 items with fewer shots, isolation: bubblewrap`."""
    parts = [f"{score.fewer_shots} items with fewer shots"] if score.fewer_shots else []
    if score.metric:
        parts.append(score.metric)
    if score.isolation:
        parts.append(f"isolation: {score.isolation}")
    return ", ".join(parts)


def _joined(texts: list[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _detail(model: str, benchmark: str, scores: list[Score]) -> Detail:
    reasons: Counter[str] = Counter()
    for score in scores:
        reasons.update(score.reasons)
    wrong = [(reason, count) for reason, count in reasons.most_common() if reason != "right"]
    lengths = [score.length for score in scores if score.length is not None]
    return Detail(
        model,
        benchmark,
        _joined([_form(score) for score in scores]),
        _joined([_more(score) for score in scores]),
        sum(sum(score.reasons.values()) or score.total for score in scores),
        sum(score.unparsed for score in scores),
        dict(wrong),
        _mean(lengths) if lengths else None,
        sum(score.unfinished for score in scores),
        sum(score.truncated for score in scores),
        _means([score.rules for score in scores]),
        _means([score.pass_at for score in scores]),
        _means([{name: mean for name, (mean, _) in s.subjects.items()} for s in scores]),
        {name: count for score in scores for name, (_, count) in score.subjects.items()},
    )


def details_of(group: Group) -> list[Detail]:
    """One for each model and benchmark of an eval stage over its seeds, models by role."""
    found: dict[str, dict[str, list[Score]]] = {}
    roles = roles_of(group)
    for _, record in group:
        for model, of_model in record.scores.items():
            for benchmark, score in of_model.items():
                if score.total:
                    found.setdefault(model, {}).setdefault(benchmark, []).append(score)
    return [
        _detail(model, benchmark, scores)
        for model in ranked(list(found), roles)
        for benchmark, scores in found[model].items()
    ]


@dataclass(frozen=True)
class Subjects:
    """The subjects of one benchmark: name, items, and each model's mean (None: not asked)."""

    benchmark: str
    models: list[str]
    rows: list[tuple[str, int, list[float | None]]]


def subjects_of(details: list[Detail]) -> list[Subjects]:
    """A table for each benchmark that has subjects, models across."""
    found = []
    for benchmark in dict.fromkeys(detail.benchmark for detail in details if detail.subjects):
        own = [detail for detail in details if detail.benchmark == benchmark and detail.subjects]
        names = sorted({name for detail in own for name in detail.subjects})
        rows = [
            (
                name,
                max(detail.sizes.get(name, 0) for detail in own),
                [detail.subjects.get(name) for detail in own],
            )
            for name in names
        ]
        found.append(Subjects(benchmark, [detail.model for detail in own], rows))
    return found


def cautions(details: list[Detail]) -> list[str]:
    """What makes scores hard to compare: unread answers, cut answers, different forms."""
    lines = []
    unread: dict[str, list[int]] = {}
    cut: dict[str, list[int]] = {}
    for detail in details:
        for counts, number in ((unread, detail.unparsed), (cut, detail.unfinished)):
            pair = counts.setdefault(detail.model, [0, 0])
            pair[0] += number
            pair[1] += detail.answers
    for counts, text in (
        (unread, "Answers that could not be read (counted as wrong)"),
        (cut, "Answers cut off by their budget of tokens"),
    ):
        listed = [f"{model} {n} of {total}" for model, (n, total) in counts.items() if n]
        if listed:
            lines.append(f"{text}: {', '.join(listed)}.")
    unlike: dict[str, list[str]] = {}
    for benchmark in dict.fromkeys(detail.benchmark for detail in details):
        forms: dict[str, list[str]] = {}
        for detail in details:
            if detail.benchmark == benchmark and detail.form:
                forms.setdefault(detail.form, []).append(detail.model)
        if len(forms) > 1:
            said = "; ".join(f"{form} ({', '.join(models)})" for form, models in forms.items())
            unlike.setdefault(said, []).append(benchmark)
    for said, names in unlike.items():
        lines.append(f"Not asked of all models in the same way: {', '.join(names)}: {said}.")
    return lines
