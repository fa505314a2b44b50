"""Expression chains: the last step must be the value of the prompt, recomputed from its text.

A recursive-descent evaluator of its own, so that an error of the generator cannot agree with it.
A response is read up to its first full stop. Reasons: `no_stop`, `wrong_answer`, `unparsable`,
`wrong_step` (of `verify_chain`), `bad_prompt`.

>>> score("5*1-2=5-2=3.", "3", "max[352]*1-2=")
Check(correct=True, reason='right')
>>> score("5*1-2=5-2=4.", "3", "max[352]*1-2=")
Check(correct=False, reason='wrong_answer')
>>> score("5*1-2=5-", "3", "max[352]*1-2=")
Check(correct=False, reason='no_stop')
>>> score("5*)=(.", "3", "max[352]*1-2=")
Check(correct=False, reason='unparsable')
"""

import re
from typing import NamedTuple, TypeAlias

Value: TypeAlias = bool | int | list[int]

MAX_CHARACTERS = 1000
MAX_DEPTH = 40
_TOKEN = re.compile(r"\s*([a-z]+|\[[0-9]*\]|[0-9]{1,4}|[TF+\-*%<>&|^!()])")
_LEVELS = ("|^", "&", "<>", "+-", "*%")


class Check(NamedTuple):
    """Whether an answer is right, and a named reason."""

    correct: bool
    reason: str


class UnparsableError(ValueError):
    """Text that is no expression, or one without a value."""


class _Reader:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise UnparsableError("too long")
        self.tokens: list[str] = []
        self.place = self.depth = at = 0
        text = text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise UnparsableError(f"'{text[at]}' at {at}")
            self.tokens.append(match[1])
            at = match.end()

    def next_is_one_of(self, choices: str) -> bool:
        return self.place < len(self.tokens) and self.tokens[self.place] in tuple(choices)

    def take(self) -> str:
        if self.place == len(self.tokens):
            raise UnparsableError("ends too early")
        self.place += 1
        return self.tokens[self.place - 1]

    def binary(self, level: int) -> Value:
        if level == len(_LEVELS):
            return self.prefix()
        left = self.binary(level + 1)
        while self.next_is_one_of(_LEVELS[level]):
            left = _compute(self.take(), left, self.binary(level + 1))
        return left

    def prefix(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnparsableError("nested too deeply")
        token = self.take()
        value: Value
        if token == "(":
            value = self.binary(0)
            if self.take() != ")":
                raise UnparsableError("no closing parenthesis")
        elif token in ("T", "F"):
            value = token == "T"
        elif token.isdigit():
            value = int(token)
        elif token[0] == "[":
            value = [int(digit) for digit in token[1:-1]]
        elif token == "!":
            inner = self.prefix()
            if not isinstance(inner, bool):
                raise UnparsableError("! of no truth value")
            value = not inner
        elif token.isalpha():
            value = _call(token, self.prefix())
        else:
            raise UnparsableError(f"'{token}' begins nothing")
        self.depth -= 1
        return value


def _compute(op: str, a: Value, b: Value) -> Value:
    wanted = bool if op in "|^&" else int
    if type(a) is not wanted or type(b) is not wanted:
        raise UnparsableError(f"types of {op}")
    if op == "|":
        return a or b
    if op == "&":
        return a and b
    if op == "^":
        return a is not b
    assert isinstance(a, int)
    assert isinstance(b, int)
    if op == "<":
        return a < b
    if op == ">":
        return a > b
    if op == "%" and b == 0:
        raise UnparsableError("division by zero")
    return {"+": a + b, "-": a - b, "*": a * b}[op] if op != "%" else a - (a // b) * b


def _call(name: str, digits: Value) -> Value:
    if not isinstance(digits, list) or not digits:
        raise UnparsableError(f"{name} of no digits")
    match name:
        case "first":
            return digits[0]
        case "last":
            return digits[len(digits) - 1]
        case "rev":
            return list(reversed(digits))
        case "sort":
            return [digit for digit in range(10) for _ in range(digits.count(digit))]
        case "max":
            return next(digit for digit in range(9, -1, -1) if digit in digits)
        case "min":
            return next(digit for digit in range(10) if digit in digits)
        case "inc":
            return [0 if digit == 9 else digit + 1 for digit in digits]
        case "tail":
            return digits[1:]
        case "sum":
            return sum(digits)
        case _:
            raise UnparsableError(f"unknown word {name}")


def evaluate(text: str) -> Value:
    """The value of an expression. Raises UnparsableError."""
    reader = _Reader(text)
    value = reader.binary(0)
    if reader.place != len(reader.tokens):
        raise UnparsableError(f"'{reader.tokens[reader.place]}' too much")
    return value


def _same(a: Value, b: Value) -> bool:
    return type(a) is type(b) and a == b


def _is_value(text: str) -> bool:
    return re.fullmatch(r"[TF]|[0-9]{1,4}|\[[0-9]*\]", text.strip()) is not None


def _steps(response: str) -> list[str] | None:
    body, stop, _ = response.partition(".")
    return body.split("=") if stop else None


def verify(prompt: str, response: str) -> Check:
    """Is the last step of the response the value of the prompt (`EXPRESSION=`)? Never raises."""
    try:
        gold = evaluate(prompt.strip().removesuffix("="))
    except UnparsableError:
        return Check(False, "bad_prompt")
    return _last(response, gold)


def _last(response: str, gold: Value) -> Check:
    steps = _steps(response)
    if steps is None:
        return Check(False, "no_stop")
    if not _is_value(steps[-1]):
        return Check(False, "unparsable")
    right = _same(evaluate(steps[-1]), gold)
    return Check(right, "right" if right else "wrong_answer")


def verify_chain(prompt: str, response: str) -> Check:
    """As `verify`, and every step before the last must have the same value too. Never raises."""
    last = verify(prompt, response)
    if not last.correct:
        return last
    gold = evaluate(prompt.strip().removesuffix("="))
    try:
        right = all(_same(evaluate(step), gold) for step in _steps(response) or [])
    except UnparsableError:
        return Check(False, "unparsable")
    return Check(right, "right" if right else "wrong_step")


def score(answer: str, gold: str, prompt: str = "") -> Check:
    """Is the answer's last step the value `gold`? Without a gold value the prompt's is computed.

    Never raises on model output. Raises ValueError when the gold value is no value.
    """
    if not gold:
        return verify(prompt, answer)
    return _last(answer, evaluate(gold))
