"""Data rows as token sequences to measure a model on: drawn by a seed, cut to its context."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core.errors import UserError
from smelt.core.seed import seed_for
from smelt.data.document import parse_row, read_lines, read_paragraphs
from smelt.models.score import encode_pair

# Bounds rows x time of a batch, and its logits (2 ** 27 numbers are 512 MB).
BATCH_TOKENS, BATCH_LOGITS = 8192, 1 << 27


@dataclass(frozen=True)
class Example:
    """What the model reads and what it has to predict there."""

    name: str
    """Row number, and the place of the window in it: what random draws are keyed by."""
    inputs: list[int]
    targets: list[int]
    """The tokens that follow the last `len(targets)` inputs."""


@dataclass(frozen=True)
class Examples:
    """The examples of a data file, longest first, and the count of what was left out."""

    items: list[Example]
    num_rows: int
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return sum(len(item.inputs) for item in self.items)

    @property
    def num_targets(self) -> int:
        return sum(len(item.targets) for item in self.items)


def read_rows(path: Path) -> list[tuple[str, str]]:
    """(prompt, text) of JSONL rows, or of the paragraphs of a text file. Raises UserError."""
    if not path.is_file():
        raise UserError(path, "no such file", "JSONL rows or a text file")
    if ".jsonl" in path.name:
        rows = [_row(line, f"{path}:{number}") for number, line in read_lines(path)]
    else:
        rows = [("", text) for text in read_paragraphs(path)]
    if not rows:
        raise UserError(path, "empty", "at least one row")
    return rows


def _row(line: bytes, where: str) -> tuple[str, str]:
    try:
        row = parse_row(line)
    except ValueError as error:
        raise UserError(where, "no JSON object", '{"text": "..."}') from error
    prompt, text = row.get("prompt", ""), row.get("text")
    if not isinstance(text, str) or not isinstance(prompt, str):
        raise UserError(where, "no text in it", '{"text": "...", "prompt": "..."}')
    if not text.startswith(prompt):
        raise UserError(where, "the prompt does not begin the text", "text = prompt + response")
    return prompt, text


def choose(
    rows: list[tuple[str, str]],
    tokenizer: TextTokenizer,
    *,
    context: int,
    limit: int | None,
    max_tokens: int | None,
    seed: int,
) -> Examples:
    """Rows in an order drawn by the seed, up to `limit` rows and `max_tokens` input tokens.

    A plain text longer than `context` becomes several windows, in which each token is predicted
    once; a pair that is longer is skipped and counted. Raises UserError when nothing is left.
    """
    order = list(range(len(rows)))
    random.Random(seed_for(seed, "rows")).shuffle(order)
    skipped: Counter[str] = Counter()
    items: list[Example] = []
    used: set[int] = set()
    left = max_tokens
    for index in order[:limit]:
        found = _cut(index, rows[index], tokenizer, context)
        if isinstance(found, str):
            skipped[found] += 1
            continue
        for item in found:
            if left is not None and len(item.inputs) > left:
                left = 0
                break
            left = None if left is None else left - len(item.inputs)
            items.append(item)
            used.add(index)
        if left == 0:
            break
    if not items:
        reasons = ", ".join(f"{key}: {count}" for key, count in sorted(skipped.items()))
        found = f"nothing to measure on ({reasons or 'the first row exceeds max_tokens'})"
        raise UserError("data", found, f"rows of at most {max_tokens or context} tokens")
    items.sort(key=lambda item: (-len(item.inputs), item.name))
    return Examples(items, len(used), dict(sorted(skipped.items())))


def _cut(
    index: int, row: tuple[str, str], tokenizer: TextTokenizer, context: int
) -> list[Example] | str:
    """The examples of a row, or the reason why it has none."""
    prompt, text = row
    ids, start = encode_pair(tokenizer, prompt, text)
    if len(ids) < 2:
        return "nothing_to_predict"
    if len(ids) - 1 > context and prompt:
        return "longer_than_context"
    return [
        Example(f"{index}:{begin}", part[:-1], part[max(1, start - begin) :])
        for begin in range(0, len(ids) - 1, context)
        if (part := ids[begin : begin + context + 1])
    ]


def batches(items: list[Example], vocab: int) -> Iterator[Int[Tensor, "rows time"]]:
    """Inputs of examples of one length each: no batch holds padding."""
    budget = min(BATCH_TOKENS, BATCH_LOGITS // vocab)
    part: list[list[int]] = []
    for item in items:
        time = len(item.inputs)
        if part and (time != len(part[0]) or (len(part) + 1) * time > budget):
            yield torch.tensor(part)
            part = []
        part.append(item.inputs)
    if part:
        yield torch.tensor(part)
