"""The evaluator against Python's own arithmetic, and the named reasons."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smelt.data.expression import Node, OutOfRangeError, chain, write
from smelt.verify.expression import UnparsableError, evaluate, score, verify, verify_chain


@given(st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_arithmetic_agrees_with_python(seed: int) -> None:
    draw = random.Random(seed)
    text = str(draw.randint(0, 9))
    for _ in range(draw.randint(0, 5)):
        text = f"({text})" if draw.random() < 0.3 else text
        text += draw.choice("+-*%") + str(draw.randint(1, 9))
    assert evaluate(text) == eval(text)


@given(st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_logic_agrees_with_python(seed: int) -> None:
    draw = random.Random(seed)
    text = ""
    for i in range(draw.randint(1, 5)):
        atom = draw.choice(["T", "F", "!T", "!!F", "3<5", "7>8", "(T&F)", "!(2<1)"])
        text += (draw.choice("&|") if i else "") + atom
    python = text.replace("T", "1").replace("F", "0").replace("!", " not ")
    python = python.replace("&", " and ").replace("|", " or ")
    assert evaluate(text) is bool(eval(python))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("first[352]", 3),
        ("last[352]", 2),
        ("rev[352]", [2, 5, 3]),
        ("sort[3523]", [2, 3, 3, 5]),
        ("max[352]", 5),
        ("min[352]", 2),
        ("inc[859]", [9, 6, 0]),
        ("tail[352]", [5, 2]),
        ("sum[134]", 8),
        ("rev sort[352]", [5, 3, 2]),
        ("max[352]*1-2", 3),
        ("8-3-2", 3),
        ("8-(3-2)", 7),
        ("T|T^T", False),  # | and ^ bind alike, from left to right: (T|T)^T
        ("T|T&F", True),
        ("1+1<3*1", True),
    ],
)
def test_values_by_hand(text: str, value: object) -> None:
    assert evaluate(text) == value
    assert type(evaluate(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1+",
        "(1",
        "1)",
        "max 3",
        "max[]",
        "T+1",
        "1&2",
        "!3",
        "3%0",
        "foo[3]",
        "[3a]",
        "1 2",
        "٣",
    ],
)
def test_what_has_no_value_is_unparsable(text: str) -> None:
    with pytest.raises(UnparsableError):
        evaluate(text)


@pytest.mark.parametrize(
    ("response", "last_step", "every_step"),
    [
        ("5*1-2=5-2=3.", "right", "right"),
        ("3.", "right", "right"),
        ("3.junk=4.", "right", "right"),  # read up to the first stop
        ("5*1-2=4-2=3.", "right", "wrong_step"),
        ("5*=3.", "right", "unparsable"),
        ("5*1-2=5-2=3", "no_stop", "no_stop"),
        ("5*1-2=5-2=4.", "wrong_answer", "wrong_answer"),
        ("5-2.", "unparsable", "unparsable"),  # an expression is no final value
        ("T.", "wrong_answer", "wrong_answer"),
        (".", "unparsable", "unparsable"),
    ],
)
def test_reasons(response: str, last_step: str, every_step: str) -> None:
    assert verify("max[352]*1-2=", response).reason == last_step
    assert verify_chain("max[352]*1-2=", response).reason == every_step
    assert score(response, "3", "max[352]*1-2=")[1] == last_step
    assert score(response, "", "max[352]*1-2=")[1] == last_step


def test_a_truth_value_is_no_digit() -> None:
    assert not verify("1<2=", "1.").correct
    assert not verify("0+1=", "T.").correct


def test_bad_prompt_is_named() -> None:
    assert verify("max[=", "3.").reason == "bad_prompt"


def test_generator_writes_what_the_evaluator_reads() -> None:
    tree = Node("-", (8, Node("-", (Node("max", ((3, 5),)), 2))))
    assert write(tree) == "8-(max[35]-2)"
    assert [write(step) for step in chain(tree)] == ["8-(5-2)", "8-3", "5"]
    with pytest.raises(OutOfRangeError):
        chain(Node("%", (3, 0)))
    with pytest.raises(OutOfRangeError):
        chain(Node("tail", ((3,),)))
