"""Chains: what a data file may not say, and the budget of an answer."""

from pathlib import Path
from typing import Any

import pytest

from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.core import registry
from smelt.core.errors import UserError
from smelt.data.document import make, write_jsonl
from smelt.evals.benchmark import Item
from smelt.evals.harness import SLACK, budget, items_of
from smelt.evals.recipe import BenchmarkEntry
from tests.pico import pico_tokenizer

GOOD = {"answer": "3", "verifier": "expression"}


def write(path: Path, meta: dict[str, Any], domain: str = "math") -> str:
    row = make("1+2=3.", source="s", domain=domain, prompt="1+2=", meta=meta)
    write_jsonl(path, [row])
    return row.id


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({**GOOD, "verifier": "os:system"}, "verifier 'os:system'. Expected one of: .*expression"),
        ({**GOOD, "verifier": "expresion"}, "verifier 'expresion'. Expected 'expression'"),
        ({"verifier": "expression"}, "meta without an answer"),
        ({**GOOD, "answer": "3 apples"}, "answer '3 apples'"),
        ({"answer": "many", "verifier": "number"}, "answer 'many'"),
    ],
)
def test_bad_rows_are_named_when_read(tmp_path: Path, meta: dict[str, Any], message: str) -> None:
    path = tmp_path / "test.jsonl"
    name = write(path, meta)
    with pytest.raises(UserError, match=f"test.jsonl: row {name}: {message}"):
        list(registry.load("benchmark", "chains").read(path))


@pytest.mark.parametrize("domain", ["../../evil", "a/b", ".hidden", "", "a\0b"])
def test_a_group_is_a_plain_name(tmp_path: Path, domain: str) -> None:
    write(tmp_path / "test.jsonl", GOOD, domain)
    entry = BenchmarkEntry(name="chains", data=str(tmp_path / "test.jsonl"))
    with pytest.raises(UserError, match=r"r: .*test.jsonl has the group"):
        items_of(entry, "r")


def test_the_budget_follows_a_gold_text_that_is_longer(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(pico_tokenizer(tmp_path))
    chains, gsm8k = (registry.load("benchmark", name) for name in ("chains", "gsm8k"))

    def items(count: int) -> list[Item]:
        gold = "1" * count
        assert len(tokenizer.encode(gold)) == count  # single digits
        return [Item("0", "g", "p", "1"), Item("1", "g", "p", gold)]

    assert [budget(chains, tokenizer, items(n)) for n in (1, 44, 45)] == [44, 44, 45 + SLACK]
    assert budget(gsm8k, tokenizer, items(300)) == 256
