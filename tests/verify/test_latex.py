"""LaTeX answers: what counts as the same, what does not, and a worker that may die."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.evals.rows import read_items
from smelt.verify import latex

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "math500" / "test.jsonl.gz"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("Hence $\\boxed{-3}$, not $\\boxed{4}$... no: $\\boxed{\u22123}$.", "-3"),
        ("\\boxed{2\\sqrt{3}}", "\\sqrt{12}"),
        ("\\boxed{0.75}", "\\frac34"),
        ("\\boxed{10080}", "10,\\!080"),
        ("\\boxed{10{,}080}", "10080"),
        ("\\boxed{11,111,111,100}", "11,\\! 111,\\! 111,\\! 100"),
        ("\\boxed{\\text{(C)}}", "C"),
        ("The answer is $\\textbf{(C)}$.", "\\text{(C)}"),
        ("\\boxed{\\text{Even}}", "\\text{even}"),
        ("even", "\\text{even}"),
        ("\\boxed{x = 5}", "5"),
        ("\\boxed{7, 3, 5}", "3,5,7"),
        ("\\boxed{90^\\circ}", "90"),
        ("\\boxed{\\left( 3, \\dfrac{\\pi}{2} \\right)}", "(3,\\frac{\\pi}{2})"),
        ("\\boxed{(x+1)^2}", "x^2+2x+1"),
        ("no box, only $\\frac{1}{2}$ at the end", "\\frac12"),
        ("It is 42.", "$42$"),
    ],
)
def test_what_is_the_same(answer: str, gold: str) -> None:
    assert latex.score(answer, gold) == (True, "right")


@pytest.mark.parametrize(
    ("answer", "gold", "reason"),
    [
        ("\\boxed{4} is wrong, \\boxed{3} is it", "4", "wrong_answer"),  # the last box counts
        ("\\boxed{(3,\\pi)}", "(3,\\frac{\\pi}{2})", "wrong_answer"),
        ("\\boxed{D}", "\\text{(C)}", "wrong_answer"),
        ("\\boxed{\\text{odd}}", "\\text{even}", "wrong_answer"),
        ("\\boxed{1}", "0,1", "wrong_answer"),
        ("\\boxed{[2,5]}", "[2,5)", "wrong_answer"),
        ("\\boxed{}", "3", "no_answer"),
        ("\\boxed{3", "\\text{even}", "no_answer"),
        ("I have no idea.\nNone at all.", "\\text{even}", "no_answer"),
        ("", "3", "no_answer"),
    ],
)
def test_what_is_not(answer: str, gold: str, reason: str) -> None:
    assert latex.score(answer, gold) == (False, reason)


def test_exact_reads_boxes_only_as_text() -> None:
    assert latex.exact("\\boxed{\\dfrac{1}{2} }", "\\frac12") == (True, "right")
    assert latex.exact("\\boxed{0.5}", "\\frac12") == (False, "wrong_answer")
    assert latex.exact("it is 1/2", "\\frac12") == (False, "no_answer")
    with pytest.raises(ValueError, match="empty gold"):
        latex.score("3", " $$ ")


@pytest.fixture
def worker() -> Iterator[latex._Worker]:
    made = latex._Worker(cpu_seconds=0.5)
    yield made
    made.close()


def test_an_endless_answer_ends_and_the_next_one_is_answered(worker: latex._Worker) -> None:
    assert worker.ask("$\\boxed{1}$", "1") == "right"
    assert worker.process is not None
    first = worker.process.pid
    begun = time.monotonic()
    assert worker.ask("$\\boxed{\\sum_{k=1}^{10^{12}} k^{-k}}$", "\\frac{\\pi}{7}") == "timeout"
    assert time.monotonic() - begun < 30
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)  # it is gone
    assert worker.ask("$\\boxed{\\frac{2}{4}}$", "\\frac12") == "right"
    assert worker.process.pid != first


def test_a_worker_that_died_is_replaced(worker: latex._Worker) -> None:
    assert worker.ask("$\\boxed{1}$", "1") == "right"
    assert worker.process is not None
    worker.process.terminate()
    worker.process.wait()
    assert worker.ask("$\\boxed{1}$", "1") == "too_hard"  # as if this answer had killed it
    assert worker.ask("$\\boxed{1}$", "1") == "right"
    worker.close()
    assert worker.process is None


def test_without_the_library_the_extra_is_named(
    worker: latex._Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latex, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"math-verify: not installed.*smelt\[eval\]"):
        worker.ask("1", "1")


@pytest.mark.skipif(not SHARED.is_file(), reason="needs the shared MATH-500")
def test_every_gold_answer_of_math500_and_no_mutant() -> None:
    """Not by equal texts: through math-verify, which the shortcut for those would hide."""
    items = read_items(registry.load("benchmark", "math500"), SHARED, None, [], "r")
    assert len(items) == 500
    for item in items:
        assert latex.score(item.gold, item.answer) == (True, "right"), item.id
        text = latex._digits_joined(f"$\\boxed{{{item.answer}}}$")
        assert latex._worker.ask(text, latex._digits_joined(item.answer)) == "right", item.id
    for item in items[::3]:
        word = bool(latex._words(item.answer))
        mutants = ["not " + item.answer] if word else ["7 + " + item.answer]
        if (digit := re.search(r"\d", item.answer)) is not None:
            other = str((int(digit[0]) + 1) % 10)
            mutants.append(item.answer[: digit.start()] + other + item.answer[digit.end() :])
        for mutant in mutants:
            correct, reason = latex.score(f"So it is $\\boxed{{{mutant}}}$.", item.answer)
            assert (correct, reason) == (False, "wrong_answer"), (item.id, mutant)
