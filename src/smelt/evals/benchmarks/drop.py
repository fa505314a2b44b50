"""DROP: a passage and a question that counts, sorts or adds; overlap of words. (1903.00161)"""

from typing import Any

from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row, Rule
from smelt.evals.reading import em_of, f1_of
from smelt.verify import phrase


def _item(row: Row) -> Item:
    golds = [str(gold) for gold in row.get("meta", {}).get("aliases") or [row["answer"]]]
    golds = [gold for gold in golds if gold.strip()]
    if not golds:
        raise ValueError("no answer that is not empty")
    question, meta = str(row["question"]).strip(), {"golds": golds}
    return Item(str(row["id"]), "drop", question, golds[0], golds[0], meta=meta)


def _after(answer: str) -> str:
    """What a chat answer states: after `Answer:`, in a box, or the last line."""
    lines = [line for line in answer.split("\n") if line.strip()]
    return phrase.last(answer) or (lines[-1] if lines else "")


def _rules(*, chat: bool) -> dict[str, Rule]:
    def f1(answer: str, item: Item) -> tuple[float, str]:
        return f1_of(_after(answer) if chat else answer, item.meta["golds"])

    def em(answer: str, item: Item) -> tuple[float, str]:
        return em_of(_after(answer) if chat else answer, item.meta["golds"])

    return {"f1": f1, "em": em}


def _ask(item: Item) -> str:
    return f"{item.question}\nAnswer:"


def _chat(item: Item) -> str:
    return (
        f"{item.question}\n\nThink step by step, then write the answer, as short as possible, "
        'on a last line "Answer: ...".'
    )


def _text(answer: dict[str, Any]) -> str:
    """An answer of the hub: a number, spans, or a date."""
    if answer["number"]:
        return str(answer["number"])
    if answer["spans"]:
        return " and ".join(map(str, answer["spans"]))
    return " ".join(answer["date"][key] for key in ("day", "month", "year")).strip()


def _convert(row: Row) -> Row:
    others = row["validated_answers"]
    keys = ("number", "spans", "date")
    answers = [row["answer"]]
    answers += [{k: others[k][i] for k in keys} for i in range(len(others["number"]))]
    golds = list(dict.fromkeys(text for text in map(_text, answers) if text.strip()))
    question = f"Passage: {row['passage']}\nQuestion: {row['question']}"
    found = {"id": f"drop/{row['query_id']}", "question": question}
    return {**found, "answer": golds[0] if golds else "", "meta": {"aliases": golds}}


drop = Benchmark(
    version=1,
    source="https://allenai.org/data/drop, arXiv:1903.00161",
    licence="CC-BY-SA-4.0",
    splits={"train": 77409, "validation": 9536},
    test_split="validation",
    fitness_split="train",
    shots_split="train",
    item=_item,
    forms={
        "chat": Form(ask=_chat, rules=_rules(chat=True), max_new_tokens=512),
        "base": Form(
            ask=_ask,
            rules=_rules(chat=False),
            shots=3,
            example=lambda item: f"{_ask(item)} {item.gold}",
            max_new_tokens=48,
            stop=("\n",),
        ),
    },
    hub=Hub("EleutherAI/drop", {"train": "train", "validation": "validation"}, _convert),
)
