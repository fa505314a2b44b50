"""Every verifier: doctests show right, wrong and malformed answers; no answer makes it raise."""

import ast
import doctest
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smelt.core import registry

PIECES = ["answer", " is ", "(C)", "\\boxed{", "}", "3", "-", "\u2212", "/0", ",000", "max", "[35]",
          "=", ".", "T", "|", "(", ")", "!", "%0", "9" * 50, "\x00", "\ud800", "A", "½",
          "٣"]  # fmt: skip
ANSWERS = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES)).map("".join))


def examples(module: ModuleType) -> list[doctest.Example]:
    """The doctest calls of `score` in a verifier's file."""
    found = [test.examples for test in doctest.DocTestFinder().find(module)]
    return [example for calls in found for example in calls if "score(" in example.source]


def golds(module: ModuleType) -> set[str]:
    """The gold answers of those calls: so a new verifier is tested unasked."""
    calls = [ast.parse(example.source, mode="eval").body for example in examples(module)]
    return {ast.literal_eval(call.args[1]) for call in calls if isinstance(call, ast.Call)}


@pytest.mark.parametrize("name", registry.names("verifier"))
def test_doctests_show_right_wrong_and_malformed(name: str) -> None:
    module = registry.load("verifier", name)
    assert doctest.testmod(module).failed == 0
    wants = [example.want for example in examples(module)]
    assert any("True" in want for want in wants)
    assert any("wrong_answer" in want for want in wants)
    named = [want for want in wants if "False" in want and "wrong_answer" not in want]
    assert named, "no malformed answer with a reason of its own"


@pytest.mark.parametrize("name", registry.names("verifier"))
@given(answer=ANSWERS, prompt=ANSWERS)
@settings(max_examples=150, deadline=None)
def test_never_raises_on_model_output(name: str, answer: str, prompt: str) -> None:
    module = registry.load("verifier", name)
    for gold in golds(module):
        correct, reason = module.score(answer, gold, prompt)
        assert isinstance(correct, bool)
        assert correct is (reason == "right")


@pytest.mark.parametrize("name", registry.names("verifier"))
@pytest.mark.parametrize(
    "answer", ["", " ", "(" * 5000, "1" * 100_000, "!" * 999 + "T=.", "=" * 99]
)
def test_hostile_answers_are_wrong_with_a_reason(name: str, answer: str) -> None:
    module = registry.load("verifier", name)
    for gold in golds(module):
        correct, reason = module.score(answer, gold, "1+1=")
        assert not correct
        assert reason
