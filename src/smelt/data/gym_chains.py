"""reasoning-gym's items as expressions of our notation: sums, sorting, circuits."""

import re
from collections.abc import Callable
from typing import Any

from smelt.data.expression import Node, Tree, write

GATES = {"&": "&", "+": "|", "⊕": "^"}
FINAL_GATES = {"AND": "&", "OR": "|", "XOR": "^"}


class NotWritableError(ValueError):
    """An item that has no chain in our notation."""


def _arithmetic(metadata: dict[str, Any]) -> Node:
    tokens = re.findall(r"\d+|\S", metadata["expression"])
    if not all(token.isdigit() for token in tokens[::2]) or not set(tokens[1::2]) <= set("+-*"):
        raise NotWritableError
    terms: list[Tree] = [_digit(tokens[0])]
    signs: list[str] = []
    for sign, token in zip(tokens[1::2], tokens[2::2], strict=True):
        if sign == "*":
            terms[-1] = Node("*", (terms[-1], _digit(token)))
        else:
            signs.append(sign)
            terms.append(_digit(token))
    tree = terms[0]
    for sign, term in zip(signs, terms[1:], strict=True):
        tree = Node(sign, (tree, term))
    return _not_a_value(tree)


def _digit(token: str) -> int:
    if not 0 <= float(token) <= 9:
        raise NotWritableError
    return int(float(token))


def _sorting(metadata: dict[str, Any]) -> Node:
    tree = Node("sort", (tuple(_digit(token) for token in metadata["original_numbers"]),))
    return tree if metadata["direction"] == "ascending" else Node("rev", (tree,))


def _circuit(metadata: dict[str, Any]) -> Node:
    if metadata["final_gate"] not in FINAL_GATES:
        raise NotWritableError
    terms = [_term(text, metadata["assignments"]) for text in metadata["term_strings"]]
    tree = terms[0]
    for term in terms[1:]:
        tree = Node(FINAL_GATES[metadata["final_gate"]], (tree, term))
    return _not_a_value(tree)


def _term(text: str, inputs: dict[str, int]) -> Tree:
    tree: Tree = False
    gate = ""
    for name, negation, following in re.findall(r"([A-Z]+)('?)(.?)", text):
        leaf: Tree = bool(inputs[name])
        leaf = Node("!", (leaf,)) if negation else leaf
        tree = Node(gate, (tree, leaf)) if gate else leaf
        if following and following not in GATES:
            raise NotWritableError
        gate = GATES.get(following, "")
    return tree


def _not_a_value(tree: Tree) -> Node:
    if not isinstance(tree, Node):
        raise NotWritableError
    return tree


def their_notation(value: Tree) -> str:
    """A value as an answer of reasoning-gym, for its own scorer."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, tuple):
        # Its numbers carry one decimal or none, as the question has them; it compares as floats.
        return str([str(digit) for digit in value])
    return write(value)


# Task -> function of an item's metadata; it raises NotWritableError.
WRITERS: dict[str, Callable[[dict[str, Any]], Node]] = {
    "basic_arithmetic": _arithmetic,
    "chain_sum": _arithmetic,
    "number_sorting": _sorting,
    "circuit_logic": _circuit,
}
