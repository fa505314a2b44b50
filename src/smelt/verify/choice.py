"""Multiple choice: the letter that an answer settles on.

A stated answer ("the answer is (C)", "answer: C", `\\boxed{C}`) wins over a letter alone; of
several statements the last counts. A letter alone counts when it is the whole answer, or begins it
as in `C) because` or `C.`, or stands in brackets, as in `(C)`. The English word "A" inside a
sentence is no choice, and neither are several at once, as in "(A) or (B)".
Reasons: `right`, `wrong_answer`, `no_choice`.

>>> score("Both fit, but the answer is (C).", "C")
(True, 'right')
>>> score("B", "C")
(False, 'wrong_answer')
>>> score("A tree has leaves.", "A")
(False, 'no_choice')
"""

import re

from smelt.verify._boxed import MAX_CHARACTERS, names_another

# Quantifiers are possessive (`*+`): thousands of blanks or stars after "answer" cost no more time.
_LETTER = r"((?!I\s+[a-z])[A-J])(?![A-Za-z'’])"
_MARKS = r"(?:\$?\\boxed\{|\\(?:text|textbf|mathrm)\{|[(\[*$>])*+"
_STATED = re.compile(
    r"(?i:answer|choice|option)(?i:\s++is|\s*+:|\s++(?:would|must|should|will)\s++be)"
    rf"[:*\s]*+(?i:(?:option|choice)\s++)?{_MARKS}{_LETTER}"
)
_NAMED = re.compile(rf"(?i:answer|choice|option)[*\s>]*+{_MARKS}{_LETTER}")
_BOXED = re.compile(
    r"\\boxed\{\s*+(?:\\(?:text|textbf|mathrm|mathbf)\{\s*+)?\(?([A-Ja-j])(?:[).:]|\s*+\})"
)
_WHOLE = re.compile(r"^[\s(\[*]*+([A-J])[\s)\].:*]*+$")
_BEGINS = re.compile(r"^[^\S\n]*+[(\[*]*+([A-J])(?:[).:\]]|[^\S\n]*+$)", re.MULTILINE)
_BRACKETED = re.compile(r"[(\[]([A-J])[)\]]")


def last(text: str) -> str | None:
    """The chosen letter A to J, or None. Never raises; reads the last 100,000 characters."""
    text = text[-MAX_CHARACTERS:]
    whole = _WHOLE.match(text)
    if whole:
        return whole[1]
    for pattern in (_BOXED, _STATED, _NAMED, _BRACKETED, _BEGINS):
        found = list(pattern.finditer(text))
        if not found:
            continue
        listed = names_another(text, found[-1].end()) or (
            pattern is _BRACKETED and len(found) > 1 and names_another(text, found[-2].end())
        )
        return None if listed else found[-1][1].upper()
    return None


def score(answer: str, gold: str, prompt: str = "") -> tuple[bool, str]:
    """Does the answer settle on the gold letter? Never raises on answers.

    Raises ValueError when the gold answer is no letter from A to J.
    """
    wanted = gold.strip().upper()
    if not re.fullmatch("[A-J]", wanted):
        raise ValueError(f"the gold answer {gold!r} is no letter from A to J")
    found = last(answer)
    if found is None:
        return False, "no_choice"
    return (True, "right") if found == wanted else (False, "wrong_answer")
