"""Answers to marks to cells: readings, samples, choices, programs, and counts by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smelt.evals.benchmark import Form, Item
from smelt.evals.cells import cells_of, scores_of
from smelt.evals.exam import Exam, Sheet, write_sheet
from smelt.evals.harness import Drawing, Mark, answer_sheet, majority, write_samples
from smelt.models.backend import Query, Request
from smelt.verify.sandbox.job import Job
from tests.evals.fakes import SUMS, FakeBackend, exam, sums

GREEDY = Drawing()


def marks_of(
    backend: FakeBackend, made: Exam, drawing: Drawing = GREEDY, **sheet: Any
) -> tuple[Sheet, list[Mark]]:
    paper = write_sheet(made, backend, "w", **sheet)
    return paper, answer_sheet(made, paper, backend, None, drawing=drawing, unsafe_code=False,
                               label="t")  # fmt: skip


def test_every_rule_reads_and_the_first_decides(tmp_path: Path) -> None:
    said = {"0+0": "0 Q: more", "1+1": "2 or 3", "2+2": ""}
    backend = FakeBackend(lambda r: said[r.prompt.split("Q: ")[-1].removesuffix(" A:")])
    made = exam(sums(3), shots=0)
    sheet, marks = marks_of(backend, made)
    assert [(m.answer.strip(), m.score, m.reason) for m in marks] == [
        ("0", 1.0, "right"), ("2 or 3", 0.0, "wrong_answer"), ("", 0.0, "empty"),
    ]  # fmt: skip
    cell = cells_of(made, sheet, marks, pass_at=[], unsafe_code=False)["sums"]
    # Wilson's interval of 1 of 3, from the formula written out.
    z, n, p = 1.959963984540054, 3, 1 / 3
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    assert cell == {
        "correct": 1, "total": 3, "accuracy": 0.3333, "low": round(centre - half, 4),
        "high": round(centre + half, 4), "unparsed": 1, "form": "base", "shots": 0,
        "reasons": {"empty": 1, "right": 1, "wrong_answer": 1}, "rules": {"anywhere": 0.6667},
        "length": round((2 + 6 + 0) / 3, 1), "unfinished": 0,
    }  # fmt: skip
    write_samples(tmp_path / "s/sums.jsonl", marks)
    rows = [json.loads(line) for line in (tmp_path / "s/sums.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in rows] == [True, False, False]
    assert set(rows[0]) == {"id", "prompt", "gold", "answer", "correct", "reason", "tokens",
                            "finished"}  # fmt: skip


def test_samples_are_drawn_by_item_and_counted_for_pass_at() -> None:
    made = exam(sums(3), shots=0)
    backend = FakeBackend(lambda r: "2" if r.seed % 2 else "9")
    sheet, marks = marks_of(backend, made, Drawing(samples=4, temperature=0.8, seed=6))
    assert [(m.item.id, m.sample) for m in marks] == [(str(i), s) for i in range(3)
                                                      for s in range(4)]  # fmt: skip
    assert len({request.seed for request in backend.asked}) == 12
    assert {request.temperature for request in backend.asked} == {0.8}
    right = sum(mark.score for mark in marks)  # only item 1 can be right
    assert 0 < right <= 4
    cell = cells_of(made, sheet, marks, pass_at=[1, 4], unsafe_code=False)["sums"]
    assert cell["pass_at"] == {"1": round(right / 12, 4), "4": round(1 / 3, 4)}
    assert cell["total"] == 3
    assert cell["accuracy"] == round(right / 12, 4)
    again = FakeBackend(lambda r: "")
    marks_of(again, made, Drawing(samples=4, temperature=0.8, seed=6))
    assert again.asked == backend.asked


def test_pass_at_is_the_mean_over_items() -> None:
    made = exam(sums(4), shots=0)
    right = zip(made.items, (0, 1, 4, 2), strict=True)
    marks = [Mark(item, sample, "p", "x", float(sample < count), "right", {}, 1, True)
             for item, count in right for sample in range(4)]  # fmt: skip
    sheet = write_sheet(made, FakeBackend(), "w")
    cell = cells_of(made, sheet, marks, pass_at=[2], unsafe_code=False)["sums"]
    assert cell["pass_at"] == {"2": round((0 + 1 / 2 + 1 + 5 / 6) / 4, 4)}


def test_drawn_answers_stay_with_their_items_beside_one_that_does_not_fit() -> None:
    items = sums(3)
    items[1] = replace(items[1], question="9" * 200)
    backend = FakeBackend(lambda r: f"{r.prompt[-4]} {r.seed % 1000}", context=100)
    _, marks = marks_of(backend, exam(items, shots=0), Drawing(samples=2, temperature=1.0))
    assert [(m.item.id, m.sample) for m in marks] == [(str(i), s) for i in range(3)
                                                      for s in range(2)]  # fmt: skip
    seeds = [request.seed % 1000 for request in backend.asked]
    said = [mark.answer for mark in marks if mark.reason != "too_long"]
    assert said == [f"{n} {seed}" for n, seed in zip("0022", seeds, strict=True)]
    assert len(set(said)) == 4
    assert [mark.reason for mark in marks[2:4]] == ["too_long"] * 2


def test_what_does_not_fit_counts_as_wrong_and_says_why() -> None:
    items = sums(2)
    items[1] = replace(items[1], question="9" * 200)
    made = exam(items, shots=0)
    backend = FakeBackend(lambda r: "0", context=100)
    sheet, marks = marks_of(backend, made)
    assert [mark.reason for mark in marks] == ["right", "too_long"]
    assert len(backend.asked) == 1
    cell = cells_of(made, sheet, marks, pass_at=[], unsafe_code=False)["sums"]
    assert (cell["correct"], cell["total"], cell["unparsed"]) == (1, 2, 1)


CHOICES = Form(
    ask=lambda item: f"{item.question} =",
    options=lambda item: [f" {one}" for one in item.choices],
)


def choosing(form: Form = CHOICES) -> Exam:
    items = [Item("a", "g", "1+1", " 2", "B", ("100000", "2")),
             Item("b", "g", "2+2", " 4", "A", ("4", "5"))]  # fmt: skip
    return exam(items, benchmark=replace(SUMS, forms={"base": form}))


def test_the_likeliest_option_is_the_answer() -> None:
    nats = {" 100000": -6.0, " 2": -5.0, " 4": -2.0, " 5": -1.0}
    backend = FakeBackend(nats=lambda query: nats[query.continuation])
    made = choosing()
    sheet, marks = marks_of(backend, made)
    assert [(m.answer, m.score, m.readings) for m in marks] == [
        ("2", 1.0, {"likelihood_per_character": 0.0}),
        ("5", 0.0, {"likelihood_per_character": 0.0}),
    ]
    assert backend.queries[0] == Query("1+1 =", " 100000")
    # By character -6/6 beats -5/1.
    _, other = marks_of(backend, choosing(replace(CHOICES, per_character=True)))
    assert [(m.answer, m.score, m.readings) for m in other] == [
        ("100000", 0.0, {"likelihood": 1.0}), ("5", 0.0, {"likelihood": 0.0}),
    ]  # fmt: skip
    cell = cells_of(made, sheet, marks, pass_at=[], unsafe_code=False)["g"]
    assert (cell["accuracy"], cell["rules"]) == (0.5, {"likelihood_per_character": 0.0})
    assert "length" not in cell
    # Chosen once, however many answers the recipe draws of what is written.
    drawn = cells_of(made, sheet, marks, pass_at=[1, 2], unsafe_code=False)["g"]
    assert drawn["pass_at"] == {"1": 0.5}


def test_broken_weights_choose_nothing() -> None:
    backend = FakeBackend(nats=lambda query: math.nan if query.continuation == " 4" else -1.0)
    made = choosing()
    sheet, marks = marks_of(backend, made)
    # "4" is the first option and the right one: the greatest of numbers that are none.
    assert [(m.score, m.reason) for m in marks][1] == (0.0, "no_likelihood")
    assert cells_of(made, sheet, marks, pass_at=[], unsafe_code=False)["g"]["unparsed"] == 1


def test_options_with_contexts_of_their_own() -> None:
    form = replace(CHOICES, contexts=lambda item: [f"{one} is" for one in item.choices],
                   options=lambda item: [" right"] * 2)  # fmt: skip
    backend = FakeBackend(nats=lambda query: -len(query.prompt))
    _, marks = marks_of(backend, choosing(form))
    assert [query.prompt for query in backend.queries] == ["100000 is", "2 is", "4 is", "5 is"]
    assert [mark.score for mark in marks] == [1.0, 1.0]


def test_programs_are_judged_by_their_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Job] = []

    def run(jobs: list[Job], **_: object) -> list[tuple[bool, str]]:
        ran.extend(jobs)
        return [(True, "right"), (False, "timeout")]

    monkeypatch.setattr("smelt.verify.code.run", run)
    monkeypatch.setattr("smelt.verify.code.isolation", lambda unsafe=False: "box")
    form = Form(ask=lambda item: item.question, max_new_tokens=9,
                job=lambda answer, item: Job(answer, ("f",), f"f() == {item.answer}"))  # fmt: skip
    items = sums(3)
    items[1] = replace(items[1], question="9" * 200)
    made = exam(items, benchmark=replace(SUMS, forms={"base": form}))
    sheet, marks = marks_of(FakeBackend(lambda r: "code", context=100), made)
    assert [job.tests for job in ran] == ["f() == 0", "f() == 4"]
    assert [(m.score, m.reason) for m in marks] == [(1, "right"), (0, "too_long"), (0, "timeout")]
    cell = cells_of(made, sheet, marks, pass_at=[], unsafe_code=False)["sums"]
    assert cell["isolation"] == "box"


def test_subjects_and_means_over_samples() -> None:
    items = [*sums(2, "a"), *sums(1, "b")]
    made = exam(items, shots=0)
    marks = [Mark(one, 0, "p", "x", score, "right", {}, 1, True)
             for one, score in zip(items, (1.0, 0.5, 0.0), strict=True)]  # fmt: skip
    sheet = write_sheet(made, FakeBackend(), "w")
    cell = cells_of(made, sheet, marks, pass_at=[], unsafe_code=False)["sums"]
    assert cell["subjects"] == {"a": [0.75, 2], "b": [0.0, 1]}
    assert (cell["correct"], cell["accuracy"]) == (1.5, 0.5)
    assert scores_of(marks) == [("a0", 1.0), ("a1", 0.5), ("b0", 0.0)]


def test_majority() -> None:
    items = [Item("i", "g", "p", f"gold {answer}", answer) for answer in "TFTT"]
    assert majority(items) == 0.75
    assert majority([Item(str(n), "g", "p", str(n)) for n in range(3)]) == 0.3333


def test_requests_hold_stop_and_budget() -> None:
    backend = FakeBackend(lambda r: "x" * 50)
    _, marks = marks_of(backend, exam(sums(1), shots=0))
    assert backend.asked == [Request("Sums.\nQ: 0+0 A:", 20, ("Q:",))]
    assert (len(marks[0].answer), marks[0].finished) == (20, False)
