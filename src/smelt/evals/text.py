"""How likely texts are to a model: bits per byte, comparable across tokenizers, and perplexity."""

import math
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core.errors import UserError
from smelt.data.document import parse_row, read_lines, read_paragraphs
from smelt.models.score import Encoded, Scorer

# A longer context costs memory and, beyond this, hardly changes a likelihood.
MAX_WINDOW = 2048


def read_text(path: Path, where: str) -> list[str]:
    """Texts of a JSONL file (a row's `text`) or of a plain text file (its paragraphs)."""
    if not path.is_file():
        raise UserError(where, f"no such file: {path}", "a text or JSONL file")
    if ".jsonl" in path.name:
        texts = [_text_of(line, f"{path}:{number}") for number, line in read_lines(path)]
    else:
        texts = read_paragraphs(path)
    if not texts:
        raise UserError(where, f"{path} is empty", "at least one text")
    return texts


def _text_of(line: bytes, where: str) -> str:
    try:
        text = parse_row(line)["text"]
    except (ValueError, KeyError) as error:
        raise UserError(where, "no JSON object with a text", '{"text": "..."}') from error
    if not isinstance(text, str):
        raise UserError(where, f"text is a {type(text).__name__}", "text")
    return text


def windows(tokenizer: TextTokenizer, text: str, context: int) -> list[Encoded]:
    """A text as rows of at most `context` tokens, in which each of its tokens is predicted once.

    A row begins with the last token of the one before. Without a begin-of-text token the first
    token is only read, and its bytes do not count. The end of the text is not predicted.
    """
    encoding = tokenizer.raw.encode(text, add_special_tokens=False)
    ids = [*tokenizer.lead, *encoding.ids]
    read = 0 if tokenizer.lead or not encoding.ids else encoding.offsets[0][1]
    num_bytes = len(text[read:].encode())
    rows = []
    for begin in range(0, len(ids) - 1, context - 1):
        rows.append(Encoded(ids[begin : begin + context], 1, 0 if begin else num_bytes))
    return rows


def likelihood(
    model: PreTrainedModel, tokenizer: TextTokenizer, texts: list[str], context: int, label: str
) -> dict[str, Any]:
    """Bits per byte (comparable across tokenizers) and perplexity per token of texts; see
    `windows`. Raises UserError when there is nothing to predict or the model gives no number."""
    context = min(context, MAX_WINDOW)
    rows = [row for text in texts for row in windows(tokenizer, text, context)]
    scored = Scorer(rows, vocab=tokenizer.size).score(model, label)
    nats = math.fsum(row.nll for row in scored)
    num_bytes, num_tokens = sum(r.num_bytes for r in scored), sum(r.num_tokens for r in scored)
    if not num_tokens or not num_bytes:
        raise UserError(label, "texts of one token each", "longer texts")
    if not math.isfinite(nats):
        raise UserError(label, "the model gives likelihoods that are no numbers", "a sound model")
    return {
        "bits_per_byte": round(nats / math.log(2) / num_bytes, 4),
        # Broken weights can have more nats than a float can raise e to.
        "perplexity": round(math.exp(min(nats / num_tokens, 700.0)), 4),
        "bytes": num_bytes,
        "tokens": num_tokens,
    }
