"""Every filter: documents unchanged, empty text handled, reasons are names, good rows kept."""

import copy
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smelt.core import registry
from smelt.data.document import Document, make

CASES = ["", " ", "\n\n", "word", ":", "a:\n", "x = (1\n", "\x00\x01\x02" * 30,
         "same line\n" * 40, "1 2 3 4 5 " * 30, "ab " * 200, "z" * 200_000, "\ud800",
         "```python\nx = 1\n```"]  # fmt: skip
PROSE = make(
    "Natalia sold clips to 48 friends in April, and half as many in May. She sold 48/2 = 24 in "
    "May, so 48 + 24 = 72 clips in April and May together.\nThe answer is 72.",
    source="s",
    domain="math",
)
CODE = make(
    "def last(items):\n    if not items:\n        return None\n    return items[-1]\n",
    source="s",
    domain="python",
)
PAIR = make("max[352]*1-2=5*1-2=5-2=3.", prompt="max[352]*1-2=", source="s", domain="mc")

# What a filter is for decides what it must not touch: syntax is asked of code alone.
KEPT = {"code_syntax": [CODE], "min_length": [PROSE, CODE]}


def rule(name: str, doc: Document) -> str | None:
    return registry.load("filter", name)(doc).reason


@pytest.mark.parametrize("name", registry.names("filter"))
def test_reasonable_rows_are_kept_by_default(name: str) -> None:
    for doc in KEPT.get(name, [PROSE, CODE, PAIR]):
        assert rule(name, doc) is None


@pytest.mark.parametrize("name", registry.names("filter"))
@pytest.mark.parametrize("text", CASES)
def test_any_text_gets_a_verdict_and_stays_unchanged(name: str, text: str) -> None:
    doc = make(text, source="s", domain="d", meta={"a": [1]})
    before = copy.deepcopy(doc)
    reason = rule(name, doc)
    assert doc == before
    assert reason is None or re.fullmatch("[a-z]+(_[a-z]+)*", reason)
    assert rule(name, doc) == reason


@pytest.mark.parametrize("name", registry.names("filter"))
def test_it_drops_something(name: str) -> None:
    assert any(rule(name, make(text, source="s", domain="d")) for text in CASES)


@pytest.mark.parametrize("name", registry.names("filter"))
@given(text=st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_never_raises(name: str, text: str) -> None:
    rule(name, make(text, source="s", domain="d"))


@pytest.mark.parametrize("name", registry.names("filter"))
def test_every_parameter_has_a_default(name: str) -> None:
    assert not [p for p in registry.schema(registry.load("filter", name)) if p.required]
