"""Numbers: the last number of an answer must equal the gold number.

Understands the Unicode minus, separators of thousands (`1,234`, `1{,}234`, `1\\,234`, `1 234` with
a thin or non-breaking space), decimals, exponents, fractions (`3/4`, `\\frac{3}{4}`), mixed numbers
(`2 1/2`, `2\\frac{1}{2}`) and `\\boxed{...}`; compares exactly, as fractions. Other LaTeX is not
read. Units and percent signs are ignored.
Reasons: `right`, `wrong_answer`, `no_number`.

>>> score("So she has 1,234 apples.", "1234")
(True, 'right')
>>> score("The temperature is \u22123 degrees, not 3 below... \u22123.", "-3")
(True, 'right')
>>> score("It is 41.", "42")
(False, 'wrong_answer')
>>> score("I do not know", "42")
(False, 'no_number')
"""

import re
from fractions import Fraction

from smelt.verify._boxed import MAX_CHARACTERS, box

_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\uff0d": "-", "\ufe63": "-"})
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:/[0-9]+(?![0-9.])|[eE][-+]?[0-9]{1,3}(?![\w.]))?"
)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")
_MIXED = re.compile(
    r"(?<![\w.,])([0-9]{1,9}) ?(?:\\[dt]?frac\{([0-9]{1,9})\}\{([0-9]{1,9})\}"
    r"|(?<= )([0-9]{1,9})/([0-9]{1,9})(?![\w./]))"
)
_LATEX_COMMA = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!\s*|\\,)(?=[0-9]{3}(?![0-9]))")
_SPACE_INSIDE = re.compile(r"(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3})")


def last(text: str) -> Fraction | None:
    """The last number (of the last box, if there is one), or None. Never raises.

    Only the last 100,000 characters are read.
    """
    text = text[-MAX_CHARACTERS:].translate(_MINUS)
    text = _LATEX_FRACTION.sub(r"\1/\2", _MIXED.sub(_joined, text))
    boxed = box(text)
    text = _LATEX_COMMA.sub(",", text if boxed is None else boxed)
    text = _SPACE_INSIDE.sub("", text)
    found = None
    for found in _NUMBER.finditer(text):  # noqa: B007 (the last one is wanted)
        pass
    return None if found is None else _fraction(found, text)


def _joined(match: re.Match[str]) -> str:
    """A mixed number as one fraction."""
    whole, above, below = (int(part) for part in match.groups() if part)
    return f"{whole * below + above}/{below}"


def _fraction(match: re.Match[str], text: str) -> Fraction | None:
    token = match[0]
    # In "(5)-3" the sign is an operator (in "5-3" the pattern has left it out already).
    before = text[match.start() - 1 : match.start()]
    if token[0] in "+-" and before in (")", "]"):
        token = token[1:]
    whole, _, below = token.replace(",", "").partition("/")
    if len(token) > 4000 or (below and int(below) == 0):
        return None
    return Fraction(whole) / (int(below) if below else 1)


def score(answer: str, gold: str, prompt: str = "") -> tuple[bool, str]:
    """Is the last number of the answer the last number of the gold text?

    Never raises on answers. Raises ValueError when the gold text has no number.
    """
    wanted = last(gold)
    if wanted is None:
        raise ValueError(f"no number in the gold answer {gold!r}")
    found = last(answer)
    if found is None:
        return False, "no_number"
    return (True, "right") if found == wanted else (False, "wrong_answer")
