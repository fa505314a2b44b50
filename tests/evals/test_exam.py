"""Prompts: forms, examples, and what happens when the context is too short for them."""

from dataclasses import replace

import pytest

from smelt.core.errors import UserError
from smelt.evals.exam import examples, form_of, write_sheet
from tests.evals.fakes import CHAT, SUMS, WRITTEN, FakeBackend, exam, sums

POOL = [replace(item, id=f"p{item.id}", question=f"{item.question}?") for item in sums(5)]


def test_a_base_prompt_is_description_examples_and_question() -> None:
    sheet = write_sheet(exam(sums(2), POOL), FakeBackend(), "w")
    assert (sheet.form_name, sheet.shots, sheet.budgets) == ("base", [2, 2], [20, 20])
    head = "Sums.\nQ: 0+0? A: It is 0.\nQ: 1+1? A: It is 2.\n"
    assert sheet.prompts == [f"{head}Q: 0+0 A:", f"{head}Q: 1+1 A:"]


def test_a_model_with_a_template_is_asked_in_chat() -> None:
    sheet = write_sheet(exam(sums(1), POOL), FakeBackend(template=True), "w")
    assert (sheet.form_name, sheet.prompts) == ("chat", ["<user>0+0<assistant>"])
    plain = write_sheet(exam(sums(1), POOL, form="base"), FakeBackend(template=True), "w")
    assert plain.form_name == "base"
    with pytest.raises(UserError, match=r"a model without a chat template. Expected form: base"):
        form_of(exam(sums(1), form="chat"), False, "w")


def test_shots_of_the_recipe_win_and_need_a_pool() -> None:
    assert write_sheet(exam(sums(1), POOL, shots=1), FakeBackend(), "w").shots == [1]
    assert write_sheet(exam(sums(1), shots=0), FakeBackend(), "w").prompts == ["Sums.\nQ: 0+0 A:"]
    with pytest.raises(UserError, match=r"no solved examples of sums .* smelt fetch sums"):
        write_sheet(exam(sums(1)), FakeBackend(), "w")


def test_shots_in_a_form_without_examples_are_no_silent_zero() -> None:
    message = "shots: 2 in the chat form of sums.* Expected shots: 0 or form: base"
    with pytest.raises(UserError, match=message):
        write_sheet(exam(sums(1), POOL, shots=2), FakeBackend(template=True), "w")
    asked = exam(sums(1), POOL, shots=2, form="base")
    assert write_sheet(asked, FakeBackend(template=True), "w").shots == [2]


def test_examples_are_of_the_subject_and_never_the_question() -> None:
    pool = sums(3, "a") + sums(3, "b")
    assert [one.id for one in examples(pool, pool[3], 5)] == ["b1", "b2"]
    assert [one.id for one in examples(pool, sums(1, "c")[0], 2)] == ["a0", "a1"]


def test_examples_go_before_a_question_does_not_fit() -> None:
    item = sums(1)[0]
    full = write_sheet(exam([item], POOL), FakeBackend(), "w").prompts[0]
    assert full is not None
    one_less = write_sheet(exam([item], POOL), FakeBackend(context=len(full) + 19), "w")
    assert one_less.shots == [1]
    # The budget shrinks before the last example goes only where an answer keeps its least room.
    long = replace(WRITTEN, max_new_tokens=500)
    roomy = replace(SUMS, forms={"base": long})
    sheet = write_sheet(exam([item], POOL, benchmark=roomy), FakeBackend(context=len(full) + 70),
                        "w")  # fmt: skip
    assert (sheet.shots, sheet.budgets) == ([2], [70])


def test_a_question_too_long_is_left_out_and_all_too_long_are_an_error() -> None:
    items = sums(2)
    items[1] = replace(items[1], question="9" * 100)
    sheet = write_sheet(exam(items, POOL), FakeBackend(context=100), "w")
    assert sheet.prompts[0] is not None
    assert sheet.prompts[1] is None
    with pytest.raises(UserError, match=r"no question of sums fits .* context of more than 10"):
        write_sheet(exam(items, POOL), FakeBackend(context=10), "w")


def test_the_budget_follows_the_longest_gold_text() -> None:
    following = replace(SUMS, forms={"chat": replace(CHAT, max_new_tokens=3, follow_gold=True)})
    made = exam(sums(2), benchmark=following)
    assert write_sheet(made, FakeBackend(template=True), "w").budgets == [len("It is 0.") + 8] * 2
    assert write_sheet(made, FakeBackend(template=True), "w", max_new_tokens=5).budgets == [5, 5]
