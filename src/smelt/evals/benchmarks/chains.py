"""Composed problems with written chains: the last step must be the value of the expression."""

from collections.abc import Iterator
from pathlib import Path

from smelt.core import registry
from smelt.core.errors import UserError, nearest
from smelt.data.document import read_jsonl
from smelt.evals.benchmark import Benchmark, Item


def _read(path: Path) -> Iterator[Item]:
    known = registry.names("verifier")
    for row in read_jsonl(path):
        if not row.prompt or "verifier" not in row.meta:
            continue
        place, verifier = f"{path}: row {row.id}", str(row.meta["verifier"])
        if verifier not in known:  # data must not name code that is then imported
            raise UserError(place, f"verifier {verifier!r}", nearest(verifier, known))
        if "answer" not in row.meta:
            raise UserError(place, "meta without an answer", "meta.answer, the gold value")
        meta = {"answer": str(row.meta["answer"]), "verifier": verifier}
        item = Item(row.id, row.domain, row.prompt, row.text[len(row.prompt) :], meta)
        try:
            reason = _score("", item)[1]
        except ValueError as error:
            raise UserError(
                place, f"answer {meta['answer']!r} ({error})", "a gold value"
            ) from error
        if reason == "bad_prompt":
            raise UserError(place, "neither an answer nor a prompt with a value", "meta.answer")
        yield item


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
    follow_gold=True,
)
