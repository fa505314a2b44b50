"""Words (yes, no, true, ...) and short phrases: what an answer settles on."""

import pytest

from smelt.verify import phrase, words
from smelt.verify._boxed import box


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("yes", "yes", "right"),
        ("No, because cats do not bark.", "no", "right"),
        ("Cats purr. So the answer is **yes**.", "yes", "right"),
        ("It seems so, yes. But the answer is no", "no", "right"),
        ("\\boxed{\\text{No}}, the answer is yes", "no", "right"),
        ("There is no sign of it, so yes.", "yes", "right"),
        ("No one knows whether they do. So: yes!", "yes", "right"),
        ("There is no doubt about yesterday", "yes", "no_word"),
        ("Nothing", "no", "no_word"),
        ("", "no", "no_word"),
        ("yes", "no", "wrong_answer"),
        ("The conclusion is Uncertain.", "Unknown", "right"),
        ("The statement is true", "True", "right"),
        ("This is a false friend", "False", "no_word"),
        ("The conclusion must be false.", "True", "wrong_answer"),
        ("TRUE", "true", "right"),
        ("The statement is not true.", "True", "no_word"),
        ("It isn't false.", "False", "no_word"),
        ("The answer is yes or no.", "yes", "no_word"),
        ("The answer is yes/no.", "no", "no_word"),
        ("Is it true, false or uncertain? The conclusion is false.", "False", "right"),
        ("Yes, no cat barks", "yes", "right"),
    ],
)
def test_words(answer: str, gold: str, expected: str) -> None:
    assert words.score(answer, gold) == (expected == "right", expected)


def test_a_word_of_no_family_is_refused() -> None:
    with pytest.raises(ValueError, match="'maybe' is none of"):
        words.score("yes", "maybe")


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("So the answer is (B).", "(B)", "right"),
        ("The answer is B) Monday", "(B)", "right"),
        ("\\boxed{\\text{(B)}}", "(B)", "right"),
        ("So the answer is Bad luck.", "(B)", "wrong_answer"),
        ("So the answer is (A) or (B).", "(A)", "wrong_answer"),
        ("(A) (B) (C)", "(A)", "wrong_answer"),
        ("So the answer is A, B, C.", "(A)", "wrong_answer"),
        ("So the answer is (A), and (B) is wrong.", "(A)", "right"),
        ("So the answer is valid.", "valid", "right"),
        ("So the answer is invalid.", "valid", "wrong_answer"),
        ("the answer is 1,024.", "1024", "right"),
        ("the answer is \u221250.", "-50", "right"),
        ("the answer is 24.0", "24", "right"),
        ("the answer is 2 4", "24", "wrong_answer"),
        ("So the answer is ] ) }.", "])}", "right"),
        ("So the answer is ] ) ].", "])}", "wrong_answer"),
        ("So the answer is Barn, Damp dot.", "barn damp dot", "right"),
        ("So the answer is damp barn dot.", "barn damp dot", "wrong_answer"),
        ("First the answer is (A). No, the answer is (B).", "(B)", "right"),
        ("Answer: False", "False", "right"),
        ("False", "False", "right"),
        ("We look at it.\nThen again.", "False", "no_answer"),
        ("\\boxed{}", "False", "no_answer"),
    ],
)
def test_phrases(answer: str, gold: str, expected: str) -> None:
    assert phrase.score(answer, gold) == (expected == "right", expected)


def test_boxes_are_balanced_and_the_last_complete_one_counts() -> None:
    assert box("\\boxed{1} then \\boxed{\\frac{a}{b}} end") == "\\frac{a}{b}"
    assert box("\\boxed{1} then \\boxed{\\frac{a}{b}") == "1"
    assert box("none") is None
    with pytest.raises(ValueError, match="empty gold"):
        phrase.score("x", " ")
