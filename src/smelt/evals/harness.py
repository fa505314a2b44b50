"""Ask every model every question, keep every answer, count what could not be read."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core import registry
from smelt.core.errors import UserError
from smelt.core.interval import wilson
from smelt.data.document import read_jsonl, read_lines
from smelt.evals.benchmark import Benchmark, Item
from smelt.evals.recipe import BenchmarkEntry
from smelt.models.generate import generate
from smelt.models.score import Scorer

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
    missing = sorted(set(entry.only) - set(groups))
    if missing or not groups:
        found = f"no items of {', '.join(missing) or entry.name} in {path}"
        raise UserError(where, found, f"groups: {', '.join(sorted(groups)) or 'none'}")
    return {name: groups[name] for name in entry.only or sorted(groups)}


def majority(items: list[Item]) -> float:
    """Accuracy of always giving the most frequent answer: the floor a score is read against."""
    answers = Counter(str(item.meta.get("answer", item.gold)) for item in items)
    return round(answers.most_common(1)[0][1] / len(items), 4)


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
        max_new_tokens=benchmark.max_new_tokens,
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
        texts = [str(row.text) for row in read_jsonl(path)]
    else:
        whole = "".join(line for _, line in read_lines(path))
        texts = [part.strip() for part in whole.split("\n\n") if part.strip()]
    if not texts:
        raise UserError(where, f"{path} is empty", "at least one text")
    return texts


def likelihood(
    model: PreTrainedModel, tokenizer: TextTokenizer, texts: list[str], context: int, label: str
) -> dict[str, Any]:
    """Bits per byte (comparable across tokenizers) and perplexity per token of texts.

    A text longer than the context is scored up to it.
    """
    import math

    rows = []
    for text in texts:
        # Cut by characters so that ids and bytes stay together; a token has at least a byte.
        ids = tokenizer.encode(text)
        kept = text if len(ids) < context else tokenizer.decode(ids[: context - 1])
        rows.append(("", kept))
    scored = Scorer(tokenizer, rows).score(model, label)
    nats = sum(row.nll for row in scored)
    num_bytes, num_tokens = sum(r.num_bytes for r in scored), sum(r.num_tokens for r in scored)
    return {
        "bits_per_byte": round(nats / math.log(2) / max(1, num_bytes), 4),
        "perplexity": round(math.exp(nats / max(1, num_tokens)), 4),
        "bytes": num_bytes,
        "tokens": num_tokens,
    }
