"""What each benchmark asks, word for word, and how its rules read answers, lm-eval's among them."""

from typing import Any

import pytest

from smelt.core import registry
from smelt.evals import reading
from smelt.evals.benchmark import Benchmark, Form, Item


def item_of(name: str, **row: Any) -> Item:
    benchmark: Benchmark = registry.load("benchmark", name)
    found = benchmark.item({"id": "1", **row})
    assert found is not None
    return found


def form_of(name: str, form: str) -> Form:
    benchmark: Benchmark = registry.load("benchmark", name)
    return benchmark.forms[form]


def read(name: str, item: Item, answer: str, form: str = "base") -> dict[str, tuple[float, str]]:
    return {key: rule(answer, item) for key, rule in form_of(name, form).rules.items()}


RIGHT, WRONG = (1.0, "right"), (0.0, "wrong_answer")


@pytest.mark.parametrize(
    ("answer", "number", "flexible", "strict"),
    [
        ("4003.\n#### 4,003", RIGHT, RIGHT, RIGHT),
        ("#### 4003.", RIGHT, RIGHT, RIGHT),
        ("So 4003 apples.", RIGHT, RIGHT, (0.0, "no_match")),
        ("So $4,003.00.", RIGHT, WRONG, (0.0, "no_match")),
        ("#### 4003\n#### 5", WRONG, WRONG, RIGHT),  # strict takes the first
        ("4003 of 5", WRONG, WRONG, (0.0, "no_match")),
        ("#### $4003", RIGHT, RIGHT, (0.0, "no_match")),
        ("\\boxed{4003} in 2 days", RIGHT, WRONG, (0.0, "no_match")),
        ("none", (0.0, "no_number"), (0.0, "no_match"), (0.0, "no_match")),
    ],
)
def test_gsm8k(answer: str, number: Any, flexible: Any, strict: Any) -> None:
    item = item_of("gsm8k", question=" How many? ", answer="4003", solution="4*1000+3")
    found = read("gsm8k", item, answer)
    assert found == {"number": number, "flexible-extract": flexible, "strict-match": strict}
    form = form_of("gsm8k", "base")
    assert form.ask(item) == "Question: How many?\nAnswer:"
    assert form.example is not None
    assert form.example(item) == "Question: How many?\nAnswer: 4*1000+3\n#### 4003"


@pytest.mark.parametrize(
    ("answer", "phrase", "get_answer"),
    [
        ("A is B. So the answer is (B).", RIGHT, RIGHT),
        ("So the answer is (B)", RIGHT, WRONG),  # lm-eval's pattern drops the last character
        ("So the answer is (B).\nOr the answer is (C).", WRONG, RIGHT),  # it takes the first
        ("The answer is (B).", RIGHT, (0.0, "no_match")),
        ("Answer: (B)", RIGHT, (0.0, "no_match")),
        ("Let me think.\nAgain.", (0.0, "no_answer"), (0.0, "no_match")),
    ],
)
def test_bbh(answer: str, phrase: Any, get_answer: Any) -> None:
    item = item_of("bbh", question="Which?\n(A) a\n(B) b", answer="(B)", subject="navigate")
    assert read("bbh", item, answer) == {"phrase": phrase, "get-answer": get_answer}
    form = form_of("bbh", "base")
    assert form.before is not None
    assert form.before(item).startswith("Given a series of navigation instructions, determine")
    assert form.ask(item) == "Q: Which?\n(A) a\n(B) b\nA: Let's think step by step."


def test_multiple_choice_prompts() -> None:
    row = {"question": "What is a plant?", "choices": ["a stone", "alive"], "answer": "B"}
    item = item_of("arc_challenge", **row)
    form = form_of("arc_challenge", "base")
    assert form.ask(item) == "Question: What is a plant?\nAnswer:"
    assert form.options is not None
    assert form.example is not None
    assert form.options(item) == [" a stone", " alive"]
    assert form.example(item) == "Question: What is a plant?\nAnswer: alive"
    item = item_of("mmlu", **row, subject="college_biology")
    form = form_of("mmlu", "base")
    assert form.before is not None
    assert form.before(item) == (
        "The following are multiple choice questions (with answers) about college biology.\n\n"
    )
    assert form.ask(item) == "What is a plant?\nA. a stone\nB. alive\nAnswer:"
    assert form.options is not None
    assert form.options(item) == [" A", " B"]
    for answer in ("C", "", "AB"):
        with pytest.raises(ValueError, match="no letter of 2 choices"):
            item_of("mmlu", **(row | {"answer": answer}), subject="x")


@pytest.mark.parametrize(
    ("answer", "letter", "custom"),
    [
        ("It is so. The answer is (B).", RIGHT, RIGHT),
        ("The answer is B", RIGHT, RIGHT),
        ("The answer is (A). No: the answer is (B).", RIGHT, WRONG),
        ("Answer: B", RIGHT, (0.0, "no_match")),
        ("\\boxed{B}", RIGHT, (0.0, "no_match")),
        ("No idea.", (0.0, "no_choice"), (0.0, "no_match")),
    ],
)
def test_mmlu_pro(answer: str, letter: Any, custom: Any) -> None:
    row = {"question": "1+1?", "choices": ["3", "2"], "answer": "B", "subject": "math"}
    item = item_of("mmlu_pro", **row)
    assert read("mmlu_pro", item, answer) == {"letter": letter, "custom-extract": custom}
    solved = item_of("mmlu_pro", **row, solution="A: Let's think step by step. So 2. "
                     "The answer is (B).")  # fmt: skip
    form = form_of("mmlu_pro", "base")
    assert form.example is not None
    assert form.example(solved) == (
        "Question:\n1+1?\nOptions:\nA. 3\nB. 2\nAnswer: Let's think step by step. So 2. "
        "The answer is (B)."
    )


@pytest.mark.parametrize(
    ("answer", "f1", "em"),
    [
        ("Bob and Al", RIGHT, RIGHT),
        (" the BOB, and al.", RIGHT, RIGHT),
        ("7", RIGHT, RIGHT),
        ("7.0 yards", (0.67, "partial"), WRONG),
        ("Bob", (0.5, "partial"), WRONG),
        ("8", WRONG, WRONG),
        ("seven", WRONG, WRONG),
        ("the", (0.0, "empty"), (0.0, "empty")),
    ],
)
def test_drop(answer: str, f1: Any, em: Any) -> None:
    golds = ["Bob and Al", "7", ""]
    row = {"question": "Passage: x\nQuestion: y?", "answer": golds[0], "meta": {"aliases": golds}}
    item = item_of("drop", **row)
    assert read("drop", item, answer) == {"f1": f1, "em": em}
    if f1 == RIGHT:
        chat = read("drop", item, f"Bob ran, as did others.\nAnswer: {answer.strip()}", "chat")
        assert chat["f1"] == RIGHT
    assert form_of("drop", "base").ask(item) == "Passage: x\nQuestion: y?\nAnswer:"


def test_words_of_drop_are_normalised_as_its_authors_do() -> None:
    assert reading.normal_words("The  U.S.-based, 1200.50 a-b 1,200.5") == (
        "us based 1200.5 b 12005.0"  # with a comma it is no number to them
    )
    assert reading.normal_words("12th") == "12th"
    assert reading.overlap("five of 30", "30 of six") == 0.67
    assert reading.overlap("30", "thirty 31") == 0.0


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "tolerant", "strict"),
    [
        ("integer", "5", "\\boxed{5}", RIGHT, RIGHT),
        ("integer", "100", "The answer is 101", WRONG, WRONG),
        ("float", "1.047", "The answer is 1.05.", RIGHT, WRONG),
        ("float", "1.047", "\\boxed{\\frac{3}{2}}", WRONG, WRONG),
        ("float", "-0.5", "\\boxed{-1/2}", RIGHT, RIGHT),
        ("bool", "True", "So it is true.", RIGHT, RIGHT),
        ("bool", "false", "\\boxed{\\text{True}}", WRONG, WRONG),
        ("list of float", "[0.333, 0.25]", "\\boxed{[0.25, 1/3]}", RIGHT, WRONG),
        ("list of integer", "[1, 2]", "the answer is (1,2)", RIGHT, RIGHT),
        ("list of integer", "[1, 2]", "the answer is [1, 2, 2]", WRONG, WRONG),
        ("list of integer", "[100, 2]", "the answer is [101, 2]", WRONG, WRONG),
        ("list of float", "[1, 2]", "\\boxed{[1e999, 2]}", WRONG, WRONG),
        ("list of float", "[1, 2]", f"\\boxed{{[1, {'9' * 400}]}}", WRONG, WRONG),
        ("list of integer", "[1, 2]", f"\\boxed{{[{'9' * 400}, 2]}}", WRONG, WRONG),
        ("list of integer", "[1, 2]", "I see\nnothing", (0.0, "no_answer"), (0.0, "no_answer")),
        ("option", "(c)", "\\boxed{c}", RIGHT, RIGHT),
        ("option", "(c)", "The answer is (C).", RIGHT, RIGHT),
        ("option", "(c)", "The answer is cold", (0.0, "no_choice"), (0.0, "no_choice")),
        ("float", "1.0", "no idea", (0.0, "no_number"), (0.0, "no_number")),
    ],
)
def test_theoremqa(kind: str, gold: str, answer: str, tolerant: Any, strict: Any) -> None:
    item = item_of("theoremqa", question="?", answer=gold, meta={"answer_type": kind})
    assert read("theoremqa", item, answer) == {"tolerant": tolerant, "strict": strict}


def test_winogrande_scores_the_same_words_after_two_contexts() -> None:
    item = item_of("winogrande", question="was late.", answer="B", choices=[
        "Sarah met Sam so Sarah", "Sarah met Sam so Sam"])  # fmt: skip
    form = form_of("winogrande", "base")
    assert form.contexts is not None
    assert form.options is not None
    assert form.contexts(item) == ["Sarah met Sam so Sarah", "Sarah met Sam so Sam"]
    assert form.options(item) == [" was late.", " was late."]
    chat = form_of("winogrande", "chat").ask(item)
    assert "Sarah met Sam so _ was late.\n\nA. Sarah\nB. Sam\n" in chat


def test_folio_strategyqa_boolq() -> None:
    item = item_of("folio", question="All.\n\nConclusion: it.", answer="Unknown")
    assert (item.gold, item.answer) == ("Uncertain", "C")
    form = form_of("folio", "base")
    assert form.options is not None
    assert form.options(item) == [" True", " False", " Uncertain"]
    assert read("folio", item, "It is uncertain.", "chat") == {"word": RIGHT}
    item = item_of("strategyqa", question="Do cats purr?", answer="yes", solution="Cats purr.")
    form = form_of("strategyqa", "base")
    assert form.example is not None
    assert form.example(item) == (
        "Q: Yes or no: Do cats purr?\nA: Cats purr. So the answer is yes."
    )
    row = {"question": "Passage: Cats.\nQuestion: purr?", "choices": ["no", "yes"], "answer": "B"}
    item = item_of("boolq", **row)
    form = form_of("boolq", "base")
    assert form.ask(item) == "Cats.\nQuestion: purr?\nAnswer:"
    assert form.options is not None
    assert form.options(item) == [" no", " yes"]
    assert read("boolq", item, "\\boxed{yes}", "chat") == {"word": RIGHT}


@pytest.mark.parametrize("name", ["svamp", "math500", "theoremqa"])
def test_written_examples_are_solved_right(name: str) -> None:
    """They stand in the file of the benchmark: four questions whose answers its own rule reads."""
    form = form_of(name, "base")
    row = {"question": "?", "answer": "7", "meta": {"answer_type": "float"}}
    assert form.before is not None
    text = form.before(item_of(name, **row))
    assert text.endswith("\n\n")
    parts = [part for part in text.split(form.stop[0]) if part.strip()]
    answers = {
        "svamp": ["23", "19", "48", "9"],
        "math500": ["5", "\\frac38", "(2y-3)(2y+3)", "\\sqrt{52}"],
        "theoremqa": ["21", "True", "[1, 3]", f"{2 ** (-5 / 3):.3f}"],
    }[name]
    kinds = ["integer", "bool", "list of integer", "float"]
    assert len(parts) == 4
    for part, answer, kind in zip(parts, answers, kinds, strict=True):
        row = {"question": "?", "answer": answer, "meta": {"answer_type": kind}}
        item = item_of(name, **row)
        assert next(iter(form.rules.values()))(part, item) == RIGHT
