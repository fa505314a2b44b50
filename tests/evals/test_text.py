"""Likelihoods of texts against computations by hand, for tokenizers of two kinds."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.core.errors import UserError
from smelt.data.document import write_jsonl
from smelt.evals import text
from smelt.models.load import load_model
from tests.pico import pico_llama
from tests.train.rows import pair, plain

KINDS = ("byte_bpe", "sentencepiece_bpe")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("evals")
    folders = {kind: pico_llama(home / kind, kind=kind) for kind in KINDS}
    return {kind: (load_model(one), open_tokenizer(one)) for kind, one in folders.items()}


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
    found = text.likelihood(model, tokenizer, [TEXT, TEXT], 128, "t")
    num_bytes = len(TEXT.encode()) - first
    assert (found["bytes"], found["tokens"]) == (2 * num_bytes, 2 * len(bits))
    assert found["bits_per_byte"] == pytest.approx(sum(bits) / num_bytes, abs=1e-4)
    assert found["perplexity"] == pytest.approx(2 ** (sum(bits) / len(bits)), rel=1e-4)


@pytest.mark.parametrize("context", [5, 7, 16])
def test_long_texts_are_read_in_windows(models: dict[str, Any], context: int) -> None:
    model, tokenizer = models["byte_bpe"]
    ids = tokenizer.encode(TEXT)
    rows = text.windows(tokenizer, TEXT, context)
    assert max(len(row.ids) for row in rows) <= context
    assert [token for row in rows for token in row.ids[1:]] == ids[1:]
    expected = sum(sum(token_bits(model, row.ids)) for row in rows)
    found = text.likelihood(model, tokenizer, [TEXT], context, "t")
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
        found = text.likelihood(model, tokenizer, [TEXT], 128, "t")
        model.load_state_dict(kept)
        bits = found["tokens"] * math.log2(model.config.vocab_size)
        assert found["bits_per_byte"] == pytest.approx(bits / found["bytes"], abs=1e-4)
        read = tokenizer.decode(tokenizer.encode(TEXT)[:1])
        assert found["bytes"] == len(TEXT.encode()) - len(read.encode())


def test_broken_models_and_empty_texts_are_errors(models: dict[str, Any]) -> None:
    model, tokenizer = models["byte_bpe"]
    with pytest.raises(UserError, match="texts of one token each"):
        text.likelihood(model, tokenizer, ["", "x"], 128, "t")
    kept = model.model.norm.weight.detach().clone()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="no numbers"):
        text.likelihood(model, tokenizer, [TEXT], 128, "t")
    with torch.no_grad():
        model.model.norm.weight.copy_(kept)


def test_texts_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\nline\r\n\r\n \n\ntwo\n", newline="")
    assert text.read_text(tmp_path / "a.txt", "r") == ["one\nline", "two"]
    write_jsonl(tmp_path / "a.jsonl", [plain("x y"), pair("1+", "1")])
    assert text.read_text(tmp_path / "a.jsonl", "r") == ["x y", "1+1"]
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        text.read_text(tmp_path / "b.txt", "r")
    (tmp_path / "c.txt").write_text(" \n\n ")
    with pytest.raises(UserError, match=r"c.txt is empty"):
        text.read_text(tmp_path / "c.txt", "r")
