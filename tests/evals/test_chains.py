"""Chains: rows of `smelt data`, grouped by domain, judged by the verifier that each names."""

from pathlib import Path

from smelt.core import registry
from smelt.data.document import make, write_jsonl
from smelt.evals.benchmark import Benchmark
from smelt.evals.rows import read_items


def test_rows_of_smelt_data_become_items_of_their_domain(tmp_path: Path) -> None:
    chain = {"task": "mc", "answer": "3", "verifier": "expression"}
    choice = {"task": "mc", "answer": "C", "verifier": "choice"}
    rows = [
        make("max[352]*1-2=5-2=3.", source="s", domain="math", prompt="max[352]*1-2=", meta=chain),
        make("plain text", source="s", domain="prose"),
        make("A pair. And its end.", source="s", domain="prose", prompt="A pair."),
        make("Which? (C)", source="s", domain="logic", prompt="Which?", meta=choice),
    ]
    write_jsonl(tmp_path / "test.jsonl", rows)
    chains: Benchmark = registry.load("benchmark", "chains")
    one, other = read_items(chains, tmp_path / "test.jsonl", None, [], "r")
    assert (one.group, one.question, one.gold) == ("math", "max[352]*1-2=", "5-2=3.")
    assert (other.group, other.question, other.gold) == ("logic", "Which?", " (C)")
    form = chains.forms["base"]
    rule = form.rules["chain"]
    assert form.ask(one) == one.question
    assert rule("5-2=3.", one) == (1.0, "right")
    assert rule("5-2=4.", one) == (0.0, "wrong_answer")
    assert rule("5-2=", one) == (0.0, "no_stop")
    assert rule("The answer is C", other) == (1.0, "right")
    assert rule("no idea", other) == (0.0, "no_choice")


def test_without_an_answer_the_prompt_says_the_value(tmp_path: Path) -> None:
    meta = {"answer": "", "verifier": "expression"}
    row = make("1+2=3.", source="s", domain="math", prompt="1+2=", meta=meta)
    write_jsonl(tmp_path / "test.jsonl", [row])
    chains: Benchmark = registry.load("benchmark", "chains")
    (item,) = read_items(chains, tmp_path / "test.jsonl", None, [], "r")
    assert chains.forms["base"].rules["chain"]("3.", item) == (1.0, "right")
    assert chains.forms["base"].rules["chain"]("4.", item) == (0.0, "wrong_answer")
