"""Hand cases of the two verifiers for text answers (the traps of design/evaluation.md 5)."""

import time
from fractions import Fraction

import pytest

from smelt.verify import choice, number, words


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 72.", 72),
        ("#### 1,234", 1234),
        ("1\u2009234 apples", 1234),
        ("first 3, then 4", 4),
        ("\u22125", -5),
        ("it is -2.50 dollars", Fraction(-5, 2)),
        ("3/4 of it", Fraction(3, 4)),
        ("3/0 of it", None),
        (r"\boxed{17} (of 20)", 17),
        ("$18", 18),
        (r"\boxed{-\frac{3}{4}}", Fraction(-3, 4)),
        (r"\boxed{18 \text{ apples}}, 5 of them green", 18),
        (r"\$1{,}234", 1234),
        (r"1,\!234", 1234),
        (r"1\,234", 1234),
        (r"it is -2\frac{1}{2}", Fraction(-5, 2)),
        ("2 1/2 hours", Fraction(5, 2)),
        (r"2\frac{1}{0}", None),
        (r"\boxed{7} or \boxed{8", 7),
        (r"2 or \boxed{}", None),
        ("1.5e3 m", 1500),
        ("2e", 2),
        ("at 10.", 10),
        ("5-3", 3),
        ("(5)-3", 3),
        ("20%", 20),
        ("none", None),
        ("H2O", None),
        ("", None),
    ],
)
def test_last_number(text: str, value: Fraction | int | None) -> None:
    assert number.last(text) == value


def test_equal_numbers_in_other_clothes() -> None:
    assert number.score("so 0.50", "1/2") == (True, "right")
    assert number.score("so 1,000.0", "1000") == (True, "right")
    assert number.score("so 1000", "999") == (False, "wrong_answer")
    with pytest.raises(ValueError, match="no number"):
        number.score("3", "three")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", "C"),
        (" (C). ", "C"),
        ("C) because", "C"),
        ("The answer is C.", "C"),
        ("the answer is (B), no: the correct answer is (D)", "D"),
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{\mathrm{C}}", "C"),
        (r"\boxed{C. a living thing}, not (A)", "C"),
        (r"\boxed{\text{C) alive}}", "C"),
        (r"\boxed{A tree}", None),
        ("Answer: **D**", "D"),
        ("I would say (A) at first but (E) fits", "E"),
        ("A cat sat.", None),
        ("It is an Apple", None),
        ("Option A is wrong. So the answer must be C.", "C"),
        ("The right option is B because option A is too long", "B"),
        ("The answer is I think unknown", None),
        ("The answer is $B$.", "B"),
        (r"The answer is $\text{B}$.", "B"),
        (r"\boxed{b}", "B"),
        ("The answer is C, and A would be wrong", "C"),
        ("Answer: A, B, C, D", None),
        ("The answer is A or B.", None),
        ("The answer is (A) and (B).", None),
        ("(A) (B) (C) (D)", None),
        ("It is (A) or (D).", None),
        ("the answer is Cats", None),
        ("", None),
    ],
)
def test_choice(text: str, letter: str | None) -> None:
    assert choice.last(text) == letter


@pytest.mark.parametrize("fill", [" ", "\n", "*", "(", "answer ", "\\boxed{", "A "])
@pytest.mark.parametrize("start", ["answer", "\\boxed{", "answer is", ""])
def test_long_runs_take_no_time(start: str, fill: str) -> None:
    """Models that have lost their way write thousands of blanks."""
    begun = time.process_time()
    assert choice.last(start + fill * 20_000 + "x") in (None, "A")
    assert words.last(start + fill * 20_000 + "x", ("yes", "no")) is None
    assert time.process_time() - begun < 2


def test_choice_refuses_a_gold_that_is_no_letter() -> None:
    with pytest.raises(ValueError, match="no letter"):
        choice.score("A", "42")
