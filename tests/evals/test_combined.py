"""The combined benchmark: right answers, twins that match, and no way around a skill."""

import json
import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from smelt.evals.benchmark import Item
from smelt.evals.benchmarks.combined import COUNTS, SKILLS, combined, make
from smelt.evals.skills.compose import VALUES, make_rows, numbers_of
from smelt.evals.skills.piece import MARK, Piece
from smelt.verify import number
from tests.evals.solver import solve

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    return make(0)


def by_group(rows: list[Row]) -> dict[str, list[Row]]:
    found = defaultdict(list)
    for row in rows:
        found[row["meta"]["group"]].append(row)
    return found


def items(rows: list[Row]) -> list[Item]:
    found = [combined.item(row) for row in rows]
    return [item for item in found if item is not None]


def test_every_answer_is_right(rows: dict[str, list[Row]]) -> None:
    """Solved again from the text alone, by other means (tests/evals/solver.py)."""
    for split in rows.values():
        for row in split:
            assert str(solve(row["question"])) == row["answer"], row["question"]
            assert number.last(row["solution"]) == int(row["answer"])


def test_counts_and_distinct_ids(rows: dict[str, list[Row]]) -> None:
    assert {split: len(found) for split, found in rows.items()} == combined.splits
    groups = by_group(rows["test"])
    assert len(groups) == len(SKILLS) + len(SKILLS) * (len(SKILLS) - 1) / 2
    assert {len(found) for found in groups.values()} == {COUNTS["test"]}
    ids = [row["id"] for split in rows.values() for row in split]
    assert len(set(ids)) == len(ids)


def test_the_twins_are_the_two_problems_of_a_task(rows: dict[str, list[Row]]) -> None:
    """The first twin's answer is the N of the second, which then has the task's answer."""
    for split in rows.values():
        known = {row["id"]: row for row in split}
        for row in split:
            meta = row["meta"]
            if "twins" not in meta:
                continue
            first, second = (known[name] for name in meta["twins"])
            assert [first["meta"]["group"], second["meta"]["group"]] == meta["order"]
            assert sorted(meta["order"]) == meta["skills"]
            assert meta["group"] == "+".join(meta["skills"])
            given, problem = second["question"].split("\n\n", 1)
            assert given == f"Let N be {first['answer']}."
            assert second["answer"] == row["answer"] != first["answer"]
            assert row["question"] == (
                f"First problem: {first['question']}\n\nLet N be the answer to the first problem."
                f"\n\nSecond problem: {problem}\n\nGive the answer to the second problem."
            )


@pytest.mark.parametrize("limit", [2, 10, 50])
def test_the_first_items_of_all_groups_belong_together(
    rows: dict[str, list[Row]], limit: int
) -> None:
    """So that a limit of items per group keeps the twins of the tasks it keeps."""
    kept = [row for found in by_group(rows["test"]).values() for row in found[:limit]]
    ids = {row["id"] for row in kept}
    assert all(twin in ids for row in kept for twin in row["meta"].get("twins", []))
    orders = Counter(tuple(row["meta"]["order"]) for row in kept if "order" in row["meta"])
    assert set(orders.values()) == {limit / 2}  # both directions alike


def test_no_problem_stands_in_both_splits(rows: dict[str, list[Row]]) -> None:
    def problems(split: str) -> set[str]:
        alone = [row["question"] for row in rows[split] if "twins" not in row["meta"]]
        return {text.split("\n\n", 1)[-1] if "Let N" in text else text for text in alone}

    assert not problems("test") & problems("fitness")
    assert len(problems("test")) == len(SKILLS) * COUNTS["test"]


def test_no_answer_stands_in_its_question(rows: dict[str, list[Row]]) -> None:
    """Neither the answer nor, in a task of two, the number on the way to it."""
    for split in rows.values():
        known = {row["id"]: row for row in split}
        for row in split:
            shown = numbers_of(row["question"])
            assert int(row["answer"]) not in shown
            if "twins" in row["meta"]:
                assert int(known[row["meta"]["twins"][0]]["answer"]) not in shown


def test_guessing_is_poor(rows: dict[str, list[Row]]) -> None:
    """The most frequent answer of a group, and the best answer for a kind of problem."""
    for group, found in by_group(rows["test"]).items():
        answers = Counter(row["answer"] for row in found)
        assert answers.most_common(1)[0][1] / len(found) <= 0.08, group
        assert len(answers) >= 25, group


def test_the_second_problem_needs_the_first(rows: dict[str, list[Row]]) -> None:
    """With another number in place of N the answer to nearly every second problem is another, so
    one who skips the first problem and guesses N is hardly ever right."""
    seen: Counter[str] = Counter()
    same: Counter[str] = Counter()
    for row in rows["test"]:
        if "Let N be " in row["question"] and "twins" not in row["meta"]:
            problem = row["question"].split("\n\n", 1)[1]
            for value in VALUES:
                answer = str(solve(f"Let N be {value}.\n\n{problem}"))
                seen[row["meta"]["group"]] += 1
                same[row["meta"]["group"]] += answer == row["answer"]
    for skill in SKILLS:
        # The right N is one of the values: 4 %. A clock comes round, programs may stop alike.
        assert same[skill] / seen[skill] <= 0.08, skill


@pytest.mark.parametrize("skill", SKILLS)
def test_what_is_drawn_does_not_depend_on_the_number(skill: str) -> None:
    for seed in range(40):
        made = [SKILLS[skill](random.Random(seed), value) for value in (7, 19)]
        assert made[0].text == made[1].text
        assert made[0].text.count(MARK) == 1
        assert MARK not in SKILLS[skill](random.Random(seed), None).text
        assert solve(made[1].ask("19")) == made[1].answer


def test_the_same_seed_gives_the_same_rows_and_another_gives_others(
    rows: dict[str, list[Row]],
) -> None:
    assert make(0) == rows
    assert json.loads(json.dumps(rows)) == rows
    for seed in (1, 2, 3):
        other = make(seed)
        assert {split: len(found) for split, found in other.items()} == combined.splits
        old = {row["question"] for row in rows["test"] if "+" in row["meta"]["group"]}
        new = {row["question"] for row in other["test"] if "+" in row["meta"]["group"]}
        assert len(old & new) < 0.01 * len(old)


def test_forms_ask_and_read(rows: dict[str, list[Row]]) -> None:
    task = items(rows["test"])[len(SKILLS)]
    assert task.group == "algebra+arithmetic"
    assert task.meta["skills"] == ["algebra", "arithmetic"]
    chat, base = combined.forms["chat"], combined.forms["base"]
    assert chat.ask(task).startswith(task.question)
    assert task.answer not in chat.ask(task).split()
    assert base.example is not None
    assert base.example(task) == f"{base.ask(task)} {task.gold}"
    for form in (chat, base):
        (rule,) = form.rules.values()
        assert rule(task.gold, task) == (1.0, "right")
        assert rule(f"So it is {int(task.answer) + 1}.", task) == (0.0, "wrong_answer")
        assert rule("I give up.", task) == (0.0, "no_number")
    # Solved examples come from the other split, and every kind of task has enough of them.
    subjects = Counter(item.subject for item in items(rows[str(combined.shots_split)]))
    assert {item.subject for item in items(rows["test"])} == set(subjects)
    assert min(subjects.values()) > base.shots


def test_a_damaged_row_is_refused(rows: dict[str, list[Row]]) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        combined.item(rows["test"][0] | {"answer": "three"})
    with pytest.raises(KeyError):
        combined.item({"question": "?"})


def test_a_skill_that_always_says_the_same_is_noticed() -> None:
    def constant(random_: random.Random, value_in: int | None) -> Piece:
        return Piece(f"What is it? {random_.random()} {MARK}", 40, "It is so.")

    with pytest.raises(AssertionError, match="enough second"):
        make_rows({"constant": constant, **SKILLS}, 100, 0, set())
