"""The composed generator: right rows of the asked kind, and seeds that mean what they say."""

import re

import pytest

from smelt.core.errors import UserError
from smelt.data.document import Document
from smelt.data.expression import OPERATORS
from smelt.data.sources.composed import NEEDS, composed
from smelt.verify.expression import verify_chain

# Written out here, so that a change of the table in the package is noticed.
ADVANCED = {
    "math": {"*", "%"},
    "logic": {"|", "^", ">"},
    "code": {"sort", "max", "min"},
    "seq": {"inc", "tail", "sum"},
}
NEEDED = {
    "math": {"math"}, "logic": {"logic"}, "code": {"code"}, "seq": {"seq"}, "basic": set(),
    "ml": {"math", "logic"}, "mc": {"math", "code"}, "lc": {"logic", "code"},
    "ms": {"math", "seq"}, "ls": {"logic", "seq"}, "cs": {"code", "seq"},
}  # fmt: skip


def rows(seed: int, **options: object) -> list[Document]:
    found = list(composed(seed, **options))  # type: ignore[arg-type]
    assert all(isinstance(row, Document) for row in found)
    return found  # type: ignore[return-value]


def tokens(prompt: str) -> list[str]:
    return re.findall(r"[a-z]+|\[\d+\]|.", prompt)


@pytest.mark.parametrize("task", sorted(NEEDED))
def test_every_row_is_right_and_of_its_task(task: str) -> None:
    assert set(NEEDS) == set(NEEDED)
    found = rows(0, tasks=[task], count=300)
    assert len({row.prompt for row in found}) == 300
    for row in found:
        response = row.text[len(row.prompt) :]
        assert verify_chain(row.prompt, response) == (True, "right")
        used = set(tokens(row.prompt))
        assert {domain for domain, words in ADVANCED.items() if used & words} == NEEDED[task]
        assert len(row.text) <= 44
        # One rewrite a step: two or three operators give two or three steps.
        steps = response[:-1].split("=")
        assert len(steps) == len([t for t in tokens(row.prompt) if t in OPERATORS])
        assert len(steps) in (2, 3)
        assert row.meta == {"task": task, "answer": steps[-1], "verifier": "expression"}
        assert not re.search(r"\d\d", re.sub(r"\[\d+\]", "", row.text))  # values are digits


def test_no_digit_dominates_the_answers() -> None:
    for task in ("math", "mc"):
        answers = [row.meta["answer"] for row in rows(1, tasks=[task], count=500)]
        assert max(answers.count(digit) for digit in set(answers)) <= 0.21 * 500


def test_leftmost_innermost() -> None:
    texts = [row.text for row in rows(0, tasks=["mc"], count=300, operators=[3])]
    assert any(re.fullmatch(r"(max|min)\[\d+\].*", text) for text in texts)
    for text in texts:
        prompt, first = text.split("=")[:2]
        match = re.match(r"(?:max|min|first|last)\[(\d+)\](.*)", prompt)
        if match:  # a list function that leads the prompt is reduced first, the rest is untouched
            assert first.endswith(match[2])
            assert len(first) == 1 + len(match[2])


def test_larger_count_extends_and_tasks_are_independent() -> None:
    few = rows(5, tasks=["math"], count=50)
    assert rows(5, tasks=["logic", "math"], count=80)[80:130] == few


def test_other_seed_other_rows() -> None:
    first = {row.prompt for row in rows(0, tasks=["mc"], count=200)}
    second = {row.prompt for row in rows(1, tasks=["mc"], count=200)}
    assert len(first & second) < 20


def test_numbers_of_operators_are_exact() -> None:
    for row in rows(0, tasks=["ml", "mc", "lc"], count=40, operators=[4]):
        assert len([t for t in tokens(row.prompt) if t in OPERATORS]) == 4


def test_exhausted_task_is_the_users_error() -> None:
    with pytest.raises(UserError, match="distinct prompts of task 'logic'"):
        rows(0, tasks=["logic"], count=10_000, operators=[1])
    with pytest.raises(UserError, match="an empty choice"):
        rows(0, tasks=["math"], count=0)
