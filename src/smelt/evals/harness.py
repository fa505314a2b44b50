"""Ask a model every question of an exam, keep every answer, count what could not be read."""

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smelt.core.seed import seed_for
from smelt.evals.answers import Store, likelihood_all, write_all
from smelt.evals.benchmark import Item
from smelt.evals.exam import Exam, Sheet, plain_shots
from smelt.models.backend import Backend, Query, Request
from smelt.verify import code

# The chance of a written answer is judged by its first reading; these are the two of a choice.
WHOLE, PER_CHARACTER = "likelihood", "likelihood_per_character"


@dataclass(frozen=True)
class Mark:
    """One answer to one question. score: 0 to 1, by the rule that decides; readings: by the other
    rules; finished: it ended by itself, within its budget."""

    item: Item
    sample: int
    prompt: str
    answer: str
    score: float
    reason: str
    readings: dict[str, float]
    num_tokens: int
    finished: bool


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn: how many for a question, how freely, and by which seed."""

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def answer_sheet(
    exam: Exam,
    sheet: Sheet,
    backend: Backend,
    store: Store | None,
    *,
    drawing: Drawing,
    unsafe_code: bool,
    label: str,
) -> list[Mark]:
    """Every answer of a model to an exam, scored, in the order of the items.

    Raises UserError when programs cannot be isolated.
    """
    if sheet.form.options is not None:
        return _choose(exam, sheet, backend, store, label)
    marks = _write(exam, sheet, backend, drawing, store, label)
    if sheet.form.job is not None:
        places = [place for place, mark in enumerate(marks) if mark.reason != "too_long"]
        jobs = [sheet.form.job(marks[place].answer, marks[place].item) for place in places]
        verdicts = code.run(jobs, unsafe=unsafe_code, label=label)
        for place, (right, reason) in zip(places, verdicts, strict=True):
            marks[place] = replace(marks[place], score=float(right), reason=reason)
    return marks


def _too_long(item: Item, sample: int = 0) -> Mark:
    """Of a question that does not fit the model's context."""
    return Mark(item, sample, "", "", 0.0, "too_long", {}, 0, False)


def _write(
    exam: Exam, sheet: Sheet, backend: Backend, drawing: Drawing, store: Store | None, label: str
) -> list[Mark]:
    slots = [
        (index, item, sample)
        for index, item in enumerate(exam.items)
        for sample in range(drawing.samples)
    ]
    requests = []
    for index, item, sample in slots:
        if (prompt := sheet.prompts[index]) is not None:
            drawn = drawing.temperature > 0
            seed = seed_for(drawing.seed, exam.entry.name, item.id, str(sample)) if drawn else 0
            requests.append(
                Request(prompt, sheet.budgets[index], sheet.form.stop,
                        drawing.temperature, drawing.top_p, seed)
            )  # fmt: skip
    answers = iter(write_all(backend, requests, label, store))
    marks = []
    for index, item, sample in slots:
        prompt = sheet.prompts[index]
        if prompt is None:
            marks.append(_too_long(item, sample))
            continue
        written = next(answers)
        read = {name: rule(written.text, item) for name, rule in sheet.form.rules.items()}
        score, reason = next(iter(read.values()), (0.0, ""))  # no rule: a program, judged later
        readings = {name: float(found) for name, (found, _) in list(read.items())[1:]}
        marks.append(
            Mark(item, sample, prompt, written.text, float(score), reason, readings,
                 written.num_tokens, written.finished)
        )  # fmt: skip
    return marks


def _choose(
    exam: Exam, sheet: Sheet, backend: Backend, store: Store | None, label: str
) -> list[Mark]:
    form = sheet.form
    assert form.options is not None
    before = plain_shots(sheet, exam) if form.contexts is not None else []
    queries: list[Query] = []
    spans: list[tuple[int, int]] = []
    for index, (item, prompt) in enumerate(zip(exam.items, sheet.prompts, strict=True)):
        start = len(queries)
        if prompt is not None:
            options = form.options(item)
            if form.contexts is not None:
                heads = [before[index] + context for context in form.contexts(item)]
            else:
                heads = [prompt] * len(options)
            queries += [Query(*pair) for pair in zip(heads, options, strict=True)]
        spans.append((start, len(queries)))
    found = likelihood_all(backend, queries, label, store)
    marks = []
    for item, prompt, (start, stop) in zip(exam.items, sheet.prompts, spans, strict=True):
        if prompt is None:
            marks.append(_too_long(item))
            continue
        nats = [one.nats for one in found[start:stop]]
        if any(map(math.isnan, nats)):  # of broken weights; a greatest one would be the first
            marks.append(Mark(item, 0, prompt, "", 0.0, "no_likelihood", {}, 0, True))
            continue
        texts = [query.continuation for query in queries[start:stop]]
        # Without the blank that joins it to the prompt, as lm-eval counts characters.
        per = [
            value / max(1, len(text.lstrip(" "))) for value, text in zip(nats, texts, strict=True)
        ]
        picks = {WHOLE: nats.index(max(nats)), PER_CHARACTER: per.index(max(per))}
        first, other = (PER_CHARACTER, WHOLE) if form.per_character else (WHOLE, PER_CHARACTER)
        right = picks[first] == item.index
        reason = "right" if right else "wrong_answer"
        readings = {other: float(picks[other] == item.index)}
        answer = texts[picks[first]].strip()
        marks.append(Mark(item, 0, prompt, answer, float(right), reason, readings, 0, True))
    return marks


def write_samples(path: Path, marks: list[Mark]) -> None:
    """One JSON row an answer: what was asked, what came, and why it scored as it did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    several = any(mark.sample for mark in marks)
    with path.open("w", encoding="utf-8") as stream:
        for mark in marks:
            row: dict[str, Any] = {
                "id": mark.item.id, "prompt": mark.prompt, "gold": mark.item.gold,
                "answer": mark.answer, "reason": mark.reason, "tokens": mark.num_tokens,
                "correct": bool(mark.score) if mark.score in (0.0, 1.0) else mark.score,
                "finished": mark.finished,
            }  # fmt: skip
            if mark.item.subject:
                row["subject"] = mark.item.subject
            if several:
                row["sample"] = mark.sample
            stream.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")


def read_scores(path: Path) -> list[tuple[str, float]]:
    """(item, score) of every kept answer; none where something else than scores was measured."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if any(row["correct"] is None for row in rows):
        return []
    return [(row["id"], float(row["correct"])) for row in rows]


def majority(items: list[Item]) -> float:
    """Accuracy of always giving the most frequent answer: the floor a score is read against."""
    answers = Counter(item.answer or item.gold for item in items)
    return round(answers.most_common(1)[0][1] / len(items), 4)
