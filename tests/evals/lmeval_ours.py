"""Our verdicts on given outputs, by the harness itself: only the backend is not a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from smelt.evals import harness
from smelt.evals.benchmark import Form
from smelt.evals.exam import Exam, Sheet, plain_shots, write_sheet
from smelt.evals.recipe import BenchmarkEntry
from smelt.models.backend import Likelihood, Message, Query, Request, Written
from smelt.verify import code
from tests.evals.lmeval_cases import Case, Row, cut, items, load

ROOM = 10**9


class Recited:
    """A backend that gives the outputs it was told to, by prompt (and continuation)."""

    identity = "recited"
    context = ROOM

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.values: dict[tuple[str, str], tuple[float, bool]] = {}

    def chat(self, messages: list[Message]) -> str | None:
        return None

    def num_tokens(self, texts: list[str]) -> list[int]:
        return [1] * len(texts)

    def write(
        self, requests: list[Request], done: Callable[[list[int], list[Written]], None], label: str
    ) -> None:
        for place, request in enumerate(requests):
            text = cut(self.texts[request.prompt], request.stop)
            done([place], [Written(text, 1, True)])

    def likelihood(
        self, queries: list[Query], done: Callable[[list[int], list[Likelihood]], None], label: str
    ) -> None:
        for place, query in enumerate(queries):
            nats, greedy = self.values[query.prompt, query.continuation]
            done([place], [Likelihood(nats, 1, greedy)])

    def close(self) -> None:
        pass


def exam_of(case: Case, rows: list[Row], pool: list[Row], *, shots: int | None = 0) -> Exam:
    """Rows as an exam in the base form, with solved examples from the rows of `pool`."""
    benchmark = load(case.benchmark)
    entry = BenchmarkEntry(name=case.benchmark, form="base", shots=shots)
    return Exam(entry, benchmark, Path(), list(items(benchmark, rows)),
                list(items(benchmark, pool)))  # fmt: skip


def sheet_of(exam: Exam) -> Sheet:
    """Its prompts where nothing is too long."""
    return write_sheet(exam, Recited(), "test")


def heads_of(form: Form, sheet: Sheet, exam: Exam) -> list[list[tuple[str, str]]]:
    """Prompt and option of every query, item by item."""
    assert form.options is not None
    before = plain_shots(sheet, exam) if form.contexts is not None else []
    pairs = []
    for place, item in enumerate(exam.items):
        options = form.options(item)
        heads = [sheet.prompts[place] or ""] * len(options)
        if form.contexts is not None:
            heads = [before[place] + context for context in form.contexts(item)]
        pairs.append(list(zip(heads, options, strict=True)))
    return pairs


def verdicts(case: Case, rows: list[Row], outputs: list[list[Any]]) -> list[list[dict[str, float]]]:
    """Score by every reading, {reading: score}, of each row's outputs: outputs [row][turn]."""
    found: list[list[dict[str, float]]] = [[] for _ in rows]
    exam = exam_of(case, rows, [])
    sheet = sheet_of(exam)
    if sheet.form.job is not None:
        return _programs(sheet.form, exam, outputs)
    for turn in range(max(map(len, outputs))):
        backend = Recited()
        for place, own in enumerate(outputs):
            given = own[turn] if turn < len(own) else own[0]
            if sheet.form.options is None:
                backend.texts[sheet.prompts[place] or ""] = given
                continue
            pairs = heads_of(sheet.form, sheet, exam)[place]
            backend.values |= dict(zip(pairs, map(tuple, given), strict=True))
        marks = harness.answer_sheet(
            exam, sheet, backend, None, drawing=harness.Drawing(), unsafe_code=True, label=""
        )
        for place, mark in enumerate(marks):
            if turn < len(outputs[place]):
                found[place].append({_first(sheet.form): mark.score, **mark.readings})
    return found


def _first(form: Form) -> str:
    """The name of the reading that is the score."""
    if form.options is not None:
        return harness.PER_CHARACTER if form.per_character else harness.WHOLE
    return next(iter(form.rules))


def _programs(form: Form, exam: Exam, outputs: list[list[str]]) -> list[list[dict[str, float]]]:
    """Verdicts of written programs, all in one go: starting a sandbox takes its time."""
    assert form.job is not None
    jobs = [
        form.job(cut(text, form.stop), item)
        for item, own in zip(exam.items, outputs, strict=True)
        for text in own
    ]
    found = iter(code.run(jobs, unsafe=True, label=""))
    return [[{"job": float(next(found)[0])} for _ in own] for own in outputs]
