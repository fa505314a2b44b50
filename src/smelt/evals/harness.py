"""Ask a model every question of an exam, keep every answer, count what could not be read."""

import json
import math
from collections import Counter
from dataclasses import dataclass
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
    """  # fmt: skip
    if sheet.form.options is not None:
        return _choose(exam, sheet, backend, store, label)
    marks = _write(exam, sheet, backend, drawing, store, label)
    if sheet.form.job is not None:
        asked = [mark for mark in marks if mark.reason != "too_long"]
        jobs = [sheet.form.job(mark.answer, mark.item) for mark in asked]
        verdicts = dict(
            zip(map(id, asked), code.run(jobs, unsafe=unsafe_code, label=label), strict=True)
        )
        marks = [_judged(mark, *verdicts.get(id(mark), (False, "too_long"))) for mark in marks]
    return marks


def _judged(mark: Mark, right: bool, reason: str) -> Mark:
    return Mark(**{**vars(mark), "score": float(right), "reason": reason})


def _write(
    exam: Exam, sheet: Sheet, backend: Backend, drawing: Drawing, store: Store | None, label: str
) -> list[Mark]:
    asked: list[tuple[int, int]] = []
    requests: list[Request] = []
    for index, (item, prompt) in enumerate(zip(exam.items, sheet.prompts, strict=True)):
        for sample in range(drawing.samples if prompt is not None else 0):
            own = (
                seed_for(drawing.seed, exam.entry.name, item.id, str(sample))
                if drawing.temperature
                else 0
            )
            asked.append((index, sample))
            requests.append(
                Request(prompt or "", sheet.budgets[index], sheet.form.stop,
                        drawing.temperature, drawing.top_p, own)
            )  # fmt: skip
    answers = dict(zip(asked, write_all(backend, requests, label, store), strict=True))
    marks = []
    for index, item in enumerate(exam.items):
        prompt = sheet.prompts[index]
        if prompt is None:
            marks += [
                Mark(item, sample, "", "", 0.0, "too_long", {}, 0, False)
                for sample in range(drawing.samples)
            ]
            continue
        for sample in range(drawing.samples):
            text, num_tokens, finished = _parts(answers[index, sample])
            readings: dict[str, float] = {}
            score, reason = 0.0, ""
            for place, (name, rule) in enumerate(sheet.form.rules.items()):
                found, why = rule(text, item)
                if place == 0:
                    score, reason = float(found), why
                else:
                    readings[name] = float(found)
            marks.append(
                Mark(item, sample, prompt, text, score, reason, readings, num_tokens, finished)
            )
    return marks


def _parts(answer: Any) -> tuple[str, int, bool]:
    return answer.text, answer.num_tokens, answer.finished


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
            marks.append(Mark(item, 0, "", "", 0.0, "too_long", {}, 0, False))
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
        gold = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(item.answer)
        picks = {WHOLE: nats.index(max(nats)), PER_CHARACTER: per.index(max(per))}
        first, other = (PER_CHARACTER, WHOLE) if form.per_character else (WHOLE, PER_CHARACTER)
        right = picks[first] == gold
        reason = "right" if right else "wrong_answer"
        readings = {other: float(picks[other] == gold)}
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
