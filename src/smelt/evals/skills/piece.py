"""One problem of one skill: text, whole-number answer, worked steps.

A skill's file holds `make(random, value_in)`. With a value, the text has `MARK` in place of one of
its numbers and the answer is that for the value; without, the number is drawn and written out. What
is drawn does not depend on the value, so the same random state with another value gives the same
text with another answer.
"""

import random
from dataclasses import dataclass

MARK = "@N@"
Random = random.Random


@dataclass(frozen=True)
class Piece:
    """text: the problem, with `MARK` where the number of another problem comes in; answer: a whole
    number; steps: how it is found, with the number written out."""

    text: str
    answer: int
    steps: str

    def ask(self, shown: str) -> str:
        """The problem with a number, or its name, in place."""
        return self.text.replace(MARK, shown)


def number(random: Random, value_in: int | None, low: int, high: int) -> tuple[int, str]:
    """(number, how the text shows it): the value under `MARK`, or one drawn from low to high."""
    drawn = random.randint(low, high)
    return (drawn, str(drawn)) if value_in is None else (value_in, MARK)
