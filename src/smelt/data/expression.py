"""Expressions rewritten step by step: the operators, how they are written, how they reduce.

Values are digits 0..9, truth values (T, F) and lists of digits ([352]). A chain reduces the
leftmost innermost operator at each step: `max[352]*1-2` to `5*1-2` to `5-2` to `3`. The verifier
(smelt.verify.expression) shares no code with this file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Kind = Literal["number", "truth", "digits"]
Domain = Literal["math", "logic", "code", "seq"]
Value: TypeAlias = bool | int | tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """An operator applied to trees."""

    op: str
    args: "tuple[Tree, ...]"


Tree: TypeAlias = Value | Node


class OutOfRangeError(ValueError):
    """A step whose value cannot be written: not a digit, division by zero, an empty list."""


@dataclass(frozen=True)
class Operator:
    """domain: who teaches it; advanced: only its domain's expert sees it; binding: 0 for prefix."""

    domain: Domain
    advanced: bool
    takes: tuple[Kind, ...]
    gives: Kind
    binding: int
    apply: Callable[..., Any]


def _binary(domain: Domain, advanced: bool, over: Kind, gives: Kind, binding: int,
            apply: Callable[..., Any]) -> Operator:  # fmt: skip
    return Operator(domain, advanced, (over, over), gives, binding, apply)


def _function(domain: Domain, advanced: bool, gives: Kind, apply: Callable[..., Any]) -> Operator:
    return Operator(domain, advanced, ("digits",), gives, 0, apply)


OPERATORS: dict[str, Operator] = {
    "+": _binary("math", False, "number", "number", 4, lambda a, b: a + b),
    "-": _binary("math", False, "number", "number", 4, lambda a, b: a - b),
    "*": _binary("math", True, "number", "number", 5, lambda a, b: a * b),
    "%": _binary("math", True, "number", "number", 5, lambda a, b: a % b if b else -1),
    "&": _binary("logic", False, "truth", "truth", 2, lambda a, b: a and b),
    "!": Operator("logic", False, ("truth",), "truth", 0, lambda a: not a),
    "<": _binary("logic", False, "number", "truth", 3, lambda a, b: a < b),
    "|": _binary("logic", True, "truth", "truth", 1, lambda a, b: a or b),
    "^": _binary("logic", True, "truth", "truth", 1, lambda a, b: a != b),
    ">": _binary("logic", True, "number", "truth", 3, lambda a, b: a > b),
    "first": _function("code", False, "number", lambda a: a[0]),
    "last": _function("code", False, "number", lambda a: a[-1]),
    "rev": _function("code", False, "digits", lambda a: a[::-1]),
    "sort": _function("code", True, "digits", lambda a: tuple(sorted(a))),
    "max": _function("code", True, "number", max),
    "min": _function("code", True, "number", min),
    "inc": _function("seq", True, "digits", lambda a: tuple((d + 1) % 10 for d in a)),
    "tail": _function("seq", True, "digits", lambda a: a[1:]),
    "sum": _function("seq", True, "number", sum),
}


def write(tree: Tree) -> str:
    """The text of a tree, with parentheses only where they are needed."""
    if isinstance(tree, bool):
        return "T" if tree else "F"
    if isinstance(tree, int):
        return str(tree)
    if isinstance(tree, tuple):
        return "[" + "".join(map(str, tree)) + "]"
    binding = OPERATORS[tree.op].binding
    if binding:
        left, right = tree.args
        # Operators group to the left, so an equal binding needs parentheses on the right only.
        return _inside(left, binding) + tree.op + _inside(right, binding + 1)
    text = _inside(tree.args[0], 9)
    return tree.op + (" " if tree.op.isalpha() and text[0].isalpha() else "") + text


def _inside(tree: Tree, least: int) -> str:
    loose = isinstance(tree, Node) and 0 < OPERATORS[tree.op].binding < least
    return f"({write(tree)})" if loose else write(tree)


def rewrite(tree: Node) -> Tree:
    """Reduce the leftmost innermost operator. Raises OutOfRangeError."""
    for place, part in enumerate(tree.args):
        if isinstance(part, Node):
            return Node(tree.op, (*tree.args[:place], rewrite(part), *tree.args[place + 1 :]))
    value: Value = OPERATORS[tree.op].apply(*tree.args)
    if (isinstance(value, tuple) and not value) or (type(value) is int and not 0 <= value <= 9):
        raise OutOfRangeError(write(tree))
    return value


def chain(tree: Tree) -> list[Tree]:
    """Every tree after each rewrite, the value last. Raises OutOfRangeError."""
    steps = []
    while isinstance(tree, Node):
        tree = rewrite(tree)
        steps.append(tree)
    return steps


def pair(tree: Node) -> tuple[str, str, str]:
    """Prompt, response and answer, e.g. `rev[12]=`, `[21].` and `[21]`. Raises OutOfRangeError."""
    steps = [write(step) for step in chain(tree)]
    return write(tree) + "=", "=".join(steps) + ".", steps[-1]


def used(tree: Tree) -> set[str]:
    """The operators in a tree."""
    if not isinstance(tree, Node):
        return set()
    return {tree.op}.union(*(used(part) for part in tree.args))


def size(tree: Tree) -> int:
    """The number of operators in a tree: the number of steps of its chain."""
    return 1 + sum(size(part) for part in tree.args) if isinstance(tree, Node) else 0
