"""A few fixed words: yes or no, true or false (or uncertain): the one that an answer settles on.

What the words are follows from the gold word. A box or a stated answer ("the answer is no",
"Answer: yes") wins, the last one; then an answer that begins with a word ("No, because ..."), then
a word that ends a sentence, unless after "not". "no" inside a sentence is no answer, "yes or no"
is none. "Unknown" means "Uncertain".
Reasons: `right`, `wrong_answer`, `no_word`.

>>> score("Both are rivers, so the answer is no.", "no")
(True, 'right')
>>> score("True", "Unknown")
(False, 'wrong_answer')
>>> score("There is no way to know that.", "no")
(False, 'no_word')
"""

import re

from smelt.verify._boxed import MAX_CHARACTERS

FAMILIES = (("yes", "no"), ("true", "false", "uncertain"))
_SAME = {"unknown": "uncertain", "undetermined": "uncertain"}
_STATED = (
    r"(?:answer|conclusion|statement|hypothesis)(?: is| would be| must be)?[:\s]*"
    r"(?:\*\*|[\"'(\[]|\\boxed\{|\\text\{|\$)*({})(?![\w'’])"
)
_BOXED = r"\\boxed\{\s*+(?:\\(?:text|textbf|mathrm)\{\s*+)?({})\s*+\}"
_BEGINS = r"^[\s*\"'(\[]*({})(?:[\s*\"')\].,!:;]|$)(?!\s*(?:one|way|matter|idea)\b)"
_ENDS = r"(?<![\w'’])(?<!not )(?<!n't )({})[\"'*)\]]*\s*(?:[.!](?:\s|$)|$)"

_SEVERAL = r"\b(?:{})[\"'*]*+\s*+(?:(?:or|and)\b|/)\s*+[\"'*]*+(?:{})\b"


def last(text: str, family: tuple[str, ...]) -> str | None:
    """The word of the family that a text settles on, or None. Never raises."""
    text = text[-MAX_CHARACTERS:]
    words = [*family, *(key for key, value in _SAME.items() if value in family)]
    text = re.sub(_SEVERAL.replace("{}", "|".join(words)), " ", text, flags=re.IGNORECASE)
    for pattern in (_BOXED, _STATED, _BEGINS, _ENDS):
        found = re.findall(pattern.replace("({})", f"({'|'.join(words)})"), text, re.IGNORECASE)
        if found:
            word = str(found[-1]).lower()
            return _SAME.get(word, word)
    return None


def score(answer: str, gold: str, prompt: str = "") -> tuple[bool, str]:
    """Does the answer settle on the gold word? Never raises on answers.

    Raises ValueError when the gold word belongs to no family.
    """
    wanted = _SAME.get(gold.strip().lower(), gold.strip().lower())
    family = next((words for words in FAMILIES if wanted in words), None)
    if family is None:
        raise ValueError(f"the gold answer {gold!r} is none of {FAMILIES}")
    found = last(answer, family)
    if found is None:
        return False, "no_word"
    return (True, "right") if found == wanted else (False, "wrong_answer")
