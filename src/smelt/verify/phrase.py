"""Short texts: what an answer states last must be the gold text, but for case and punctuation.

Stated is what a box holds, or what follows "the answer is" or "Answer:" on its line, or an answer
of one short line. `(C)` and `C) because` are one choice, `(A) or (B)` is none; numbers compare as
numbers, lists with and without commas, brackets with and without spaces.
Reasons: `right`, `wrong_answer`, `no_answer`.

>>> score("Sorted by letter. So the answer is barn, damp, dot.", "barn damp dot")
(True, 'right')
>>> score("So the answer is (B) Monday.", "(C)")
(False, 'wrong_answer')
>>> score("Let us see. First we sort them.\\nThen we look again.", "(C)")
(False, 'no_answer')
"""

import re

from smelt.verify._boxed import MAX_CHARACTERS, box, names_another

MAX_LINE = 100
_STATES = re.compile(r"(?i)\banswer(?:\s+is|\s*:)\s*:?[ \t]*")
_LETTER = re.compile(r"\(([A-Z])\)")
_CHOSEN = re.compile(r"\(([A-Z])\)|([A-Z])(?![\w'’])")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mbox)\{([^{}]*)\}")
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2019": "'"})


def last(text: str) -> str | None:
    """What a text states as its answer, as it is written, or None. Never raises."""
    text = text[-MAX_CHARACTERS:]
    boxed = box(text)
    if boxed is not None:
        return boxed or None
    end = None
    for found in _STATES.finditer(text):
        end = found.end()
    if end is not None:
        return text[end:].partition("\n")[0].strip() or None
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return lines[0] if len(lines) == 1 and len(lines[0]) <= MAX_LINE else None


def plain(text: str) -> str:
    """A text as it is compared: lower case, single blanks, no marks around it or after it."""
    text = _WRAPPED.sub(r"\1", text[:MAX_CHARACTERS].translate(_MINUS))
    text = text.strip().strip("*$`\"'").strip()
    text = text.removesuffix(".").strip("*$`\"'")
    return " ".join(re.sub(r",(?=\s)", " ", text).split()).casefold()


def same(found: str, gold: str) -> bool:
    """Is a stated answer the gold text?"""
    letter = _LETTER.fullmatch(gold.strip())
    if letter is not None:
        found = found.strip().strip("*$`\"'").removeprefix("\\text{")
        chosen = _CHOSEN.match(found)
        if chosen is None or names_another(found, chosen.end()):
            return False
        return letter[1] in chosen.groups()
    one, other = plain(found), plain(gold)
    if one == other:
        return True
    if _NUMBER.fullmatch(other) and len(one) < 40:
        one = one.replace(",", "")
        return _NUMBER.fullmatch(one) is not None and float(one) == float(other)
    if not any(map(str.isalnum, other)):
        return one.replace(" ", "") == other.replace(" ", "")
    return False


def score(answer: str, gold: str, prompt: str = "") -> tuple[bool, str]:
    """Is what the answer states the gold text? Never raises on answers.

    Raises ValueError for an empty gold text.
    """
    if not gold.strip():
        raise ValueError("an empty gold answer")
    found = last(answer)
    if found is None:
        return False, "no_answer"
    return (True, "right") if same(found, gold) else (False, "wrong_answer")
