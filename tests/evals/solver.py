"""Solves the combined benchmark's problems from their text alone, in other ways than they were
made: programs are run, straight lines followed to zero, words written down, days walked through."""

import contextlib
import io
import itertools
import re
from fractions import Fraction


def solve(text: str) -> int:
    """The answer to any question of the benchmark: one problem, or two of which the second uses
    the first one's answer."""
    text = text.replace("\n\nGive the answer to the second problem.", "")
    if text.startswith("First problem: "):
        first, rest = text.removeprefix("First problem: ").split(
            "\n\nLet N be the answer to the first problem.\n\nSecond problem: "
        )
        return solve(re.sub(r"\bN\b", str(solve(first)), rest))
    if found := re.match(r"Let N be (\d+)\.\n\n", text):
        return solve(re.sub(r"\bN\b", found[1], text[found.end() :]))
    for sign, method in METHODS.items():
        if sign in text:
            return method(text)
    raise ValueError(text)


def _ints(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def _trace(text: str) -> int:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(text.partition("\n\n")[2], {})
    return int(printed.getvalue())


def _algebra(text: str) -> int:
    equation, letter = re.findall(r"equation (.+) for (\w)\.", text)[0]
    left, right = (re.sub(r"\d+", r"Fraction(\g<0>)", side) for side in equation.split(" = "))
    code = compile(f"({left}) - ({right})", equation, "eval")
    at_0, at_1 = (eval(code, {"Fraction": Fraction, letter: Fraction(x)}) for x in (0, 1))
    root = at_0 / (at_0 - at_1)  # of a straight line through two points
    assert eval(code, {"Fraction": Fraction, letter: root}) == 0
    assert root.denominator == 1
    return int(root)


def _bags(text: str) -> int:
    have, bags, each, gone = _ints(text)
    return have + sum([each] * bags) - gone


def _days(text: str) -> int:
    monday, times, more = _ints(text)
    return sum([monday] * times) + more


def _tables(text: str) -> int:
    tables, seats, chairs, empty = _ints(text)
    return len([*range(tables * seats), *range(chairs)][empty:])


def _saving(text: str) -> int:
    each, weeks, spent = _ints(text)
    return sum([each] * weeks) - spent


def _date(text: str) -> int:
    days, today, ahead = _ints(text)
    return next(itertools.islice(itertools.cycle(range(1, days + 1)), today - 1 + ahead, None))


def _clock(text: str) -> int:
    hour, shifts, each = _ints(text.partition("shows ")[2])
    for _ in range(shifts * each):
        hour = 0 if hour == 23 else hour + 1
    return hour


def _weeks(text: str) -> int:
    weeks, days, rest = _ints(text)
    return len(list(range(days)) + list("1234567") * weeks) - rest


def _film(text: str) -> int:
    begin, hours, past = _ints(text)
    return len(range(begin, hours * 60 + past))


def _points(text: str) -> int:
    total = _ints(text.partition(" points")[0])[0]
    truth: dict[str, bool] = {}
    for letter, points, said in re.findall(r"^([A-D]) \((\d+) points\): (.+)\.$", text, re.M):
        names = re.findall(r"\b[A-D]\b", said)
        values = [truth[one] for one in names]
        if "greater" in said:
            one, other = _ints(said)
            truth[letter] = one > other
        elif "divisible" in said:
            one, by = _ints(said)
            truth[letter] = one in range(0, 10_000, by)
        elif said.endswith("is false"):
            truth[letter] = not values[0]
        else:
            wanted = {"Both": {2}, "At least": {1, 2}, "Exactly": {1}, "Neither": {0}}
            (counts,) = (c for word, c in wanted.items() if said.startswith(word))
            truth[letter] = sum(values) in counts
        total += int(points) if truth[letter] else 0
    assert len(truth) == 4
    return total


ORDER = ("first", "second", "third", "fourth", "fifth")


def _gap(text: str) -> int:
    *values, plus = _ints(text)
    low, high = re.findall(r"Subtract the (\w+) number .* from the (\w+) one", text)[0]
    ordered = sorted(values)
    return ordered[ORDER.index(high)] - ordered[ORDER.index(low)] + plus


def _keep(text: str) -> int:
    edge, *values, last = _ints(text)
    return sum([value for value in values if not value >= edge] + [last])


def _middle(text: str) -> int:
    *values, times, less = _ints(text)
    (middle,) = (v for v in values if sum(o < v for o in values) == 2)
    return times * middle - less


def _word(text: str) -> tuple[str, str]:
    word, letter = re.findall(r"'(\w+)'", text)[:2] if text.count("'") > 2 else ("", "")
    return word, letter


def _strike(text: str) -> int:
    word, letter = _word(text)
    times, plus = _ints(text)
    return len((word * times).replace(letter, "") + "q" * plus)


def _place(text: str) -> int:
    word, letter = _word(text)
    wanted = _ints(text)[-1]
    row = word * (wanted + 1)
    return [i for i, one in enumerate(row, 1) if one == letter][wanted - 1]


def _vowels(text: str) -> int:
    word = re.findall(r"'(\w+)'", text)[0]
    (start,) = _ints(text)
    return sum(i for i, one in enumerate(word, start) if one in "aeiou")


METHODS = {
    "Python program": _trace, "Solve the equation": _algebra, " buys ": _bags,
    "on Tuesday": _days, "along the wall": _tables, " saves ": _saving,
    "Today is": _date, "24-hour clock": _clock, "A journey": _weeks, "A film": _film,
    "starts with": _points, "Subtract the": _gap, "Remove every": _keep,
    "middle number": _middle, "strikes out": _strike, "again and again": _place,
    "numbered from left": _vowels,
}  # fmt: skip
