"""Ask every model every question, keep every answer, count what could not be read."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core import registry
from smelt.core.errors import UserError
from smelt.core.interval import wilson
from smelt.data.document import parse_row, read_lines
from smelt.evals.benchmark import Benchmark, Item
from smelt.evals.recipe import BenchmarkEntry
from smelt.models.generate import encode_prompts, generate, require_room
from smelt.models.load import context_of
from smelt.models.score import Encoded, Scorer

# A longer context costs memory and, beyond this, hardly changes a likelihood.
MAX_WINDOW = 2048
# What an answer may be longer than the longest gold text, in tokens, where that decides.
SLACK = 8
# Reasons that mean "no answer could be read", as opposed to a wrong one.
UNREADABLE = frozenset({"no_stop", "unparsable", "no_number", "no_choice", "empty"})


def items_of(entry: BenchmarkEntry, where: str) -> dict[str, list[Item]]:
    """The items of a benchmark by group. Raises UserError when there are none."""
    benchmark: Benchmark = registry.load("benchmark", entry.name)
    path = Path(entry.data)
    if not path.is_file():
        raise UserError(where, f"no such file: {path}", "the benchmark's data file")
    groups: dict[str, list[Item]] = {}
    for item in benchmark.read(path):
        group = groups.setdefault(item.group, [])
        if entry.limit is None or len(group) < entry.limit:
            group.append(item)
    for name in groups:  # they become file names
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise UserError(where, f"{path} has the group {name!r}", "a name without '/'")
    missing = sorted(set(entry.only) - set(groups))
    if missing or not groups:
        found = f"no items of {', '.join(missing) or entry.name} in {path}"
        raise UserError(where, found, f"groups: {', '.join(sorted(groups)) or 'none'}")
    return {name: groups[name] for name in entry.only or sorted(groups)}


def majority(items: list[Item]) -> float:
    """Accuracy of always giving the most frequent answer: the floor a score is read against."""
    answers = Counter(str(item.meta.get("answer", item.gold)) for item in items)
    return round(answers.most_common(1)[0][1] / len(items), 4)


def budget(benchmark: Benchmark, tokenizer: TextTokenizer, items: list[Item]) -> int:
    """New tokens that an answer may take, in one tokenizer: enough for the longest gold text."""
    if not benchmark.follow_gold:
        return benchmark.max_new_tokens
    longest = max(map(len, tokenizer.encode_batch([item.gold for item in items])))
    return longest + SLACK if longest > benchmark.max_new_tokens else benchmark.max_new_tokens


def check_room(
    config: dict[str, Any],
    tokenizer: TextTokenizer,
    benchmark: Benchmark,
    items: list[Item],
    where: str,
) -> None:
    """Refuse prompts that, with their answers, do not fit the context of a config.json."""
    encoded = encode_prompts(tokenizer, [item.prompt for item in items])
    require_room(encoded, budget(benchmark, tokenizer, items), context_of(config), where)


def run_benchmark(
    model: PreTrainedModel,
    tokenizer: TextTokenizer,
    benchmark: Benchmark,
    items: list[Item],
    samples: Path,
    *,
    batch_size: int,
    label: str,
) -> dict[str, float | int]:
    """Score one model on one group; `samples` gets a row for each answer."""
    answers = generate(
        model,
        tokenizer,
        [item.prompt for item in items],
        max_new_tokens=budget(benchmark, tokenizer, items),
        batch_size=batch_size,
        label=label,
    )
    correct = unparsed = 0
    rows = []
    for item, answer in zip(items, answers, strict=True):
        for mark in benchmark.stop:
            answer = answer.partition(mark)[0]
        right, reason = benchmark.score(answer, item)
        correct += right
        unparsed += reason in UNREADABLE
        row = {"id": item.id, "prompt": item.prompt, "gold": item.gold, "answer": answer}
        rows.append(row | {"correct": right, "reason": reason})
    samples.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows]
    samples.write_text("".join(lines), encoding="utf-8")
    low, high = wilson(correct, len(items))
    return {
        "correct": correct,
        "total": len(items),
        "accuracy": round(correct / len(items), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "unparsed": unparsed,
    }


def read_text(path: Path, where: str) -> list[str]:
    """Texts of a JSONL file (a row's `text`) or of a plain text file (its paragraphs)."""
    if not path.is_file():
        raise UserError(where, f"no such file: {path}", "a text or JSONL file")
    if ".jsonl" in path.name:
        texts = [_text_of(line, f"{path}:{number}") for number, line in read_lines(path)]
    else:
        try:
            whole = b"".join(line for _, line in read_lines(path)).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(path, f"not UTF-8 text ({error.reason})", "a text file") from error
        texts = [part.strip() for part in re.split(r"\n\s*\n", whole) if part.strip()]
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
