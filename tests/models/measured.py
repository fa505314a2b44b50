"""Statistics of pico models on five rows, and what they are compared with."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
)

from smelt.checkpoint.reader import Checkpoint
from smelt.checkpoint.statistics import Statistics
from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.models.examples import Examples, choose, read_rows
from smelt.models.load import load_model
from smelt.models.statistics import Options, measure
from tests.pico import pico_tokenizer

ROWS = [
    ("max[35]*1=", "max[35]*1=5*1=5."),
    ("", "The quick brown fox jumps over the lazy dog, then sleeps."),
    ("rev[123]=", "rev[123]=[321]."),
    ("", "def add(a, b):\n    return a + b\n"),
    ("rev[321]=", "rev[321]=[123]."),
]
CONTEXT = 40


def gpt2(folder: Path, *, base_only: bool) -> Path:
    """A pico GPT-2; saved as a base model its tensors have no `transformer.` in their names."""
    pico_tokenizer(folder)
    tokenizer = open_tokenizer(folder)
    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=tokenizer.size, n_embd=32, n_layer=2, n_head=4, n_positions=64,
        initializer_range=0.2, eos_token_id=tokenizer.eos_id, bos_token_id=None,
    )  # fmt: skip
    model = GPT2Model(config) if base_only else GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    return folder


def examples_of(folder: Path, rows: list[tuple[str, str]] = ROWS) -> Examples:
    tokenizer = open_tokenizer(folder)
    return choose(rows, tokenizer, context=CONTEXT, limit=None, max_tokens=None, seed=0)


def statistics_of(
    folder: Path, out: Path, kind: Any, rows: list[tuple[str, str]] = ROWS, **options: Any
) -> Statistics:
    data = out.with_name(f"{out.name}.jsonl")
    data.write_text("".join(json.dumps({"prompt": p, "text": t}) + "\n" for p, t in rows))
    chosen = Options(kind=kind, **options)
    model, checkpoint = load_model(folder), Checkpoint.open(folder)
    measure(model, checkpoint, examples_of(folder, read_rows(data)), data, out, chosen)
    found = Statistics.open(out)
    found.check_belongs(checkpoint)
    return found


def ids_of(folder: Path, prompt: str, text: str) -> tuple[list[int], int]:
    """Ids with the end token, and how many of them are the prompt's."""
    tokenizer = open_tokenizer(folder)
    assert tokenizer.lead == []
    head = tokenizer.encode(prompt)
    return [*head, *tokenizer.encode(text[len(prompt) :]), tokenizer.eos_id], len(head)


def assert_close(found: Any, expected: torch.Tensor, tolerance: float = 2e-6) -> None:
    wanted = expected.double()
    scale = float(wanted.abs().max())
    assert scale > 0
    torch.testing.assert_close(
        torch.as_tensor(found).double(), wanted, rtol=0, atol=tolerance * scale
    )
