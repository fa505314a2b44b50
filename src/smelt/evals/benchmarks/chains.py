"""Composed problems with written chains: the last step must be the value of the expression."""

from smelt.core import registry
from smelt.core.errors import nearest
from smelt.evals.benchmark import Benchmark, Form, Item, Row


def _item(row: Row) -> Item | None:
    """Rows of `smelt data`; plain text, and pairs without a verifier, are left out."""
    prompt, text, meta = row["prompt"], row["text"], row["meta"]
    if not prompt or "verifier" not in meta:
        return None
    known, verifier = registry.names("verifier"), str(meta["verifier"])
    if verifier not in known:  # data must not name code that is then imported
        raise ValueError(f"verifier {verifier!r}, which is not {nearest(verifier, known)}")
    if "answer" not in meta:
        raise ValueError("meta without an answer, the gold value")
    if not text.startswith(prompt):
        raise ValueError("the prompt does not begin the text")
    answer, gold = str(meta["answer"]), text[len(prompt) :]
    item = Item(row["id"], row["domain"], prompt, gold, answer, meta={"verifier": verifier})
    try:
        reason = _score("", item)[1]
    except ValueError as error:
        raise ValueError(f"answer {answer!r} ({error})") from error
    if reason == "bad_prompt":
        raise ValueError("neither an answer nor a prompt with a value")
    return item


def _score(answer: str, item: Item) -> tuple[float, str]:
    verifier = registry.load("verifier", item.meta["verifier"])
    correct, reason = verifier.score(answer, item.answer, item.question)
    return float(correct), str(reason)


chains = Benchmark(
    version=2,
    source="made by `smelt data`",
    licence="Apache-2.0",
    splits={},
    test_split="test",
    fitness_split="fitness",
    item=_item,
    forms={
        "base": Form(
            ask=lambda item: item.question,
            rules={"chain": _score},
            max_new_tokens=44,
            follow_gold=True,
        ),
    },
)
