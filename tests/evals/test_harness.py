"""Counts, floors, intervals and likelihoods against computations by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.core.errors import UserError
from smelt.data.document import write_jsonl
from smelt.evals import harness
from smelt.evals.benchmark import Benchmark, Item
from smelt.evals.recipe import BenchmarkEntry
from smelt.models.load import load_model
from tests.pico import pico_llama
from tests.train.rows import pair, plain

KINDS = ("byte_bpe", "sentencepiece_bpe")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("evals")
    folders = {kind: pico_llama(home / kind, kind=kind) for kind in KINDS}
    return {kind: (load_model(one), open_tokenizer(one)) for kind, one in folders.items()}


def test_majority() -> None:
    def item(answer: str) -> Item:
        return Item("i", "g", "p", "some gold " + answer, {"answer": answer})

    assert harness.majority([item("T"), item("F"), item("T"), item("T")]) == 0.75
    assert harness.majority([Item(str(n), "g", "p", str(n)) for n in range(3)]) == 0.3333


def test_counts_and_samples(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["4 STOP 5", "five", "3", "4"]
    monkeypatch.setattr(harness, "generate", lambda *args, **options: answers)

    def score(answer: str, item: Item) -> tuple[bool, str]:
        if not answer.strip().isdigit():
            return False, "no_number"
        right = answer.strip() == item.gold
        return right, "right" if right else "wrong_answer"

    benchmark = Benchmark(1, "test", "fitness", lambda path: iter(()), score, 5, (" STOP",))
    items = [Item(str(n), "g", f"p{n}", "4") for n in range(4)]
    found = harness.run_benchmark(*models["byte_bpe"], benchmark, items, tmp_path / "s" / "g.jsonl",
                                  batch_size=2, label="t")  # fmt: skip
    # Wilson's interval of 2 of 4, from the formula written out.
    z, n, p = 1.959963984540054, 4, 0.5
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert found == {
        "correct": 2, "total": 4, "accuracy": 0.5, "low": round(0.5 - half, 4),
        "high": round(0.5 + half, 4), "unparsed": 1,
    }  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "s/g.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == ["4", "five", "3", "4"]
    assert [row["correct"] for row in rows] == [True, False, False, True]
    assert [row["reason"] for row in rows] == ["right", "no_number", "wrong_answer", "right"]
    assert set(rows[0]) == {"id", "prompt", "gold", "answer", "correct", "reason"}


def entry(path: Path, **fields: Any) -> BenchmarkEntry:
    return BenchmarkEntry(name="chains", data=str(path), **fields)


def test_items_by_group(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = []
    for n in range(6):
        one = pair(f"{n}+1=", f"{n + 1}.", ("math", "logic")[n % 2])
        one.meta.update({"answer": str(n + 1), "verifier": "expression"})
        rows.append(one)
    write_jsonl(path, [*rows, plain("text")])
    groups = harness.items_of(entry(path, limit=2), "r")
    assert {name: [item.gold for item in items] for name, items in groups.items()} == {
        "logic": ["2.", "4."], "math": ["1.", "3."],
    }  # fmt: skip
    assert list(harness.items_of(entry(path, only=["math"]), "r")) == ["math"]
    with pytest.raises(UserError, match=r"no items of code in .*Expected groups: logic, math"):
        harness.items_of(entry(path, only=["code"]), "r")
    with pytest.raises(UserError, match="r: no such file"):
        harness.items_of(entry(tmp_path / "no"), "r")


TEXT = "The quick brown fox jumps over the lazy dog, then sleeps. naïve 12345 (x)"


def token_bits(model: Any, ids: list[int]) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    nll = -logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return [float(one) / math.log(2) for one in nll]


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_by_hand(models: dict[str, Any], kind: str) -> None:
    model, tokenizer = models[kind]
    ids = tokenizer.encode(TEXT)
    first = len(tokenizer.decode(ids[:1]).encode())
    bits = token_bits(model, ids)
    found = harness.likelihood(model, tokenizer, [TEXT, TEXT], 128, "t")
    num_bytes = len(TEXT.encode()) - first
    assert (found["bytes"], found["tokens"]) == (2 * num_bytes, 2 * len(bits))
    assert found["bits_per_byte"] == pytest.approx(sum(bits) / num_bytes, abs=1e-4)
    assert found["perplexity"] == pytest.approx(2 ** (sum(bits) / len(bits)), rel=1e-4)


@pytest.mark.parametrize("context", [5, 7, 16])
def test_long_texts_are_read_in_windows(models: dict[str, Any], context: int) -> None:
    model, tokenizer = models["byte_bpe"]
    ids = tokenizer.encode(TEXT)
    rows = harness.windows(tokenizer, TEXT, context)
    assert max(len(row.ids) for row in rows) <= context
    assert [token for row in rows for token in row.ids[1:]] == ids[1:]
    expected = sum(sum(token_bits(model, row.ids)) for row in rows)
    found = harness.likelihood(model, tokenizer, [TEXT], context, "t")
    assert found["bytes"] == len(TEXT.encode()) - len(tokenizer.decode(ids[:1]).encode())
    assert found["bits_per_byte"] == pytest.approx(expected / found["bytes"], abs=1e-4)


def test_equal_models_of_other_tokenizers_cost_the_same_per_byte(models: dict[str, Any]) -> None:
    """A model that is uniform over its tokens: bits are tokens times log2(vocabulary)."""
    for kind in KINDS:
        model, tokenizer = models[kind]
        kept = {name: one.clone() for name, one in model.state_dict().items()}
        with torch.no_grad():
            for one in model.parameters():
                one.zero_()
        found = harness.likelihood(model, tokenizer, [TEXT], 128, "t")
        model.load_state_dict(kept)
        bits = found["tokens"] * math.log2(model.config.vocab_size)
        assert found["bits_per_byte"] == pytest.approx(bits / found["bytes"], abs=1e-4)
        read = tokenizer.decode(tokenizer.encode(TEXT)[:1])
        assert found["bytes"] == len(TEXT.encode()) - len(read.encode())


def test_broken_models_and_empty_texts_are_errors(models: dict[str, Any]) -> None:
    model, tokenizer = models["byte_bpe"]
    with pytest.raises(UserError, match="texts of one token each"):
        harness.likelihood(model, tokenizer, ["", "x"], 128, "t")
    kept = model.model.norm.weight.detach().clone()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="no numbers"):
        harness.likelihood(model, tokenizer, [TEXT], 128, "t")
    with torch.no_grad():
        model.model.norm.weight.copy_(kept)


def test_texts_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\nline\r\n\r\n \n\ntwo\n", newline="")
    assert harness.read_text(tmp_path / "a.txt", "r") == ["one\nline", "two"]
    write_jsonl(tmp_path / "a.jsonl", [plain("x y"), pair("1+", "1")])
    assert harness.read_text(tmp_path / "a.jsonl", "r") == ["x y", "1+1"]
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        harness.read_text(tmp_path / "b.txt", "r")
    (tmp_path / "c.txt").write_text(" \n\n ")
    with pytest.raises(UserError, match=r"c.txt is empty"):
        harness.read_text(tmp_path / "c.txt", "r")
