"""Composed problems with written chains: the last step must be the value of the expression."""

from collections.abc import Iterator
from pathlib import Path

from smelt.core import registry
from smelt.data.document import read_jsonl
from smelt.evals.benchmark import Benchmark, Item


def _read(path: Path) -> Iterator[Item]:
    for row in read_jsonl(path):
        if row.prompt and "verifier" in row.meta:
            gold = {"text": row.text[len(row.prompt) :], "answer": row.meta["answer"]}
            meta = {"answer": str(gold["answer"]), "verifier": str(row.meta["verifier"])}
            yield Item(row.id, row.domain, row.prompt, str(gold["text"]), meta)


def _score(answer: str, item: Item) -> tuple[bool, str]:
    verifier = registry.load("verifier", item.meta["verifier"])
    correct, reason = verifier.score(answer, item.meta["answer"], item.prompt)
    return bool(correct), str(reason)


chains = Benchmark(
    version=1,
    test_split="test",
    fitness_split="fitness",
    read=_read,
    score=_score,
    max_new_tokens=44,
)
