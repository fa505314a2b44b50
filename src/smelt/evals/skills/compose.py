"""Rows of the combined benchmark: tasks of two skills, and each of their halves alone.

Half of a skill's pieces come first in a task (their answer goes on), half come second (a number
comes in). Piece number j of every skill is made for the same number: as a first piece that is its
answer, as a second piece the value that comes in. So any two skills fit together at j, in both
directions, and a task's halves are the very pieces that stand alone as its twins.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from smelt.core.seed import seed_for
from smelt.evals.skills.piece import Piece, Random

Make = Callable[[Random, int | None], Piece]
Row = dict[str, Any]
VALUES = range(6, 31)  # what a first piece's answer may be
# Answers to whole tasks: above the small numbers that problems are full of, and without a
# thousands separator.
LEAST, MOST = 10, 999
CALENDAR = {23, 24, 30, 31}  # stand in nearly every calendar problem, so they are no answer
MAX_SHARE = 0.06  # of one answer among a skill's second pieces
PATIENCE = 50_000  # draws after which a skill counts as too poor


def numbers_of(text: str) -> set[int]:
    """Every number written in a text."""
    return {int(digits) for digits in re.findall(r"[0-9]+", text)}


class Pieces:
    """The pieces of one split: `first` and `second`, skill -> piece for each of `values`.

    seen: texts that may not come up again; new ones are added.
    """

    def __init__(self, skills: Mapping[str, Make], count: int, seed: int, seen: set[str]) -> None:
        self.values = _values(count, Random(seed_for(seed, "values")))
        self.seen = seen
        self.second = {
            name: self._second(make, Random(seed_for(seed, name, "second")))
            for name, make in skills.items()
        }
        # A number that is the answer to a whole task may stand in neither half of it.
        self.hidden = [{pieces[j].answer for pieces in self.second.values()} for j in range(count)]
        self.first = {
            name: self._first(make, Random(seed_for(seed, name, "first")))
            for name, make in skills.items()
        }

    def _second(self, make: Make, random: Random) -> list[Piece]:
        most = max(1, int(MAX_SHARE * len(self.values)))
        answers: Counter[int] = Counter()
        found: list[Piece] = []
        for _ in range(PATIENCE):
            if len(found) == len(self.values):
                return found
            value = self.values[len(found)]
            piece = make(random, value)
            plain = LEAST <= piece.answer <= MOST and piece.answer not in {value, *CALENDAR}
            shown = numbers_of(piece.text) & {value, piece.answer}
            if plain and not shown and answers[piece.answer] < most and piece.text not in self.seen:
                answers[piece.answer] += 1
                self.seen.add(piece.text)
                found.append(piece)
        raise AssertionError("a skill without enough second pieces")

    def _first(self, make: Make, random: Random) -> list[Piece]:
        slots: dict[int, list[int]] = {}
        for j, value in enumerate(self.values):
            slots.setdefault(value, []).append(j)
        found: dict[int, Piece] = {}
        for _ in range(PATIENCE):
            if len(found) == len(self.values):
                return [found[j] for j in range(len(self.values))]
            piece = make(random, None)
            shown = numbers_of(piece.text)
            if piece.answer in shown or piece.text in self.seen:
                continue
            for j in slots.get(piece.answer, []):
                if j not in found and not shown & self.hidden[j]:
                    self.seen.add(piece.text)
                    found[j] = piece
                    break
        raise AssertionError("a skill without enough first pieces")


def _values(count: int, random: Random) -> list[int]:
    """`count` numbers, each of `VALUES` as often as any other (or once more)."""
    found: list[int] = []
    while len(found) < count:
        found += random.sample(VALUES, len(VALUES))
    return found[:count]


def _row(group: str, subject: str, question: str, piece: Piece, solution: str, **meta: Any) -> Row:
    return {
        "id": hashlib.sha256(question.encode()).hexdigest()[:16],
        "question": question,
        "answer": str(piece.answer),
        "solution": f"{solution} The answer is {piece.answer}.",
        "subject": subject,
        "meta": {"group": group, **meta},
    }


def _alone(skill: str, pieces: Pieces, j: int, second: bool) -> Row:
    piece = (pieces.second if second else pieces.first)[skill][j]
    if not second:
        return _row(skill, skill, piece.text, piece, piece.steps)
    question = f"Let N be {pieces.values[j]}.\n\n{piece.ask('N')}"
    return _row(skill, f"{skill}, with a number", question, piece, piece.steps)


def _together(pair: tuple[str, str], one: str, other: str, pieces: Pieces, j: int) -> Row:
    before, after = pieces.first[one][j], pieces.second[other][j]
    question = (
        f"First problem: {before.text}\n\nLet N be the answer to the first problem.\n\n"
        f"Second problem: {after.ask('N')}\n\nGive the answer to the second problem."
    )
    solution = (
        f"First problem: {before.steps} So N = {before.answer}. Second problem: {after.steps}"
    )
    twins = [_alone(one, pieces, j, False)["id"], _alone(other, pieces, j, True)["id"]]
    return _row(f"{pair[0]}+{pair[1]}", f"{one}, then {other}", question, after, solution,
                skills=list(pair), order=[one, other], twins=twins)  # fmt: skip


def make_rows(skills: Mapping[str, Make], count: int, seed: int, seen: set[str]) -> list[Row]:
    """`count` rows (an even number) for every skill and every pair of skills, one of each group
    after the other, so that the first k rows of the groups belong together (k even).

    seen: texts of pieces that other splits use; those of this one are added.
    """
    assert count % 2 == 0, "both directions of a pair alike"
    pieces = Pieces(skills, count // 2, seed, seen)
    rows = []
    for index in range(count):
        j, turned = divmod(index, 2)
        rows += [_alone(skill, pieces, j, bool(turned)) for skill in skills]
        for a, b in combinations(skills, 2):
            one, other = (b, a) if turned else (a, b)
            rows.append(_together((a, b), one, other, pieces, j))
    return rows
