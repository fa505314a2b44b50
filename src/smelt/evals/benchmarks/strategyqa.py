"""StrategyQA: yes or no, by several steps that the question does not name. (arXiv:2101.02235)"""

from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row
from smelt.evals.reading import get_answer, words_rule

_RULES = {"word": words_rule, "get-answer": get_answer}


def _item(row: Row) -> Item:
    answer = str(row["answer"])
    if answer not in ("yes", "no"):
        raise ValueError(f"the answer {answer!r} is neither yes nor no")
    facts = str(row.get("solution", "")).strip()
    gold = f"{facts} So the answer is {answer}.".strip()
    return Item(str(row["id"]), "strategyqa", str(row["question"]).strip(), gold, answer)


def _ask(item: Item) -> str:
    return f"Q: Yes or no: {item.question}\nA:"


def _chat(item: Item) -> str:
    return f"{item.question}\n\nThink step by step, then give yes or no inside \\boxed{{}}."


def _convert(row: Row) -> Row:
    facts = row["facts"]
    text = facts if isinstance(facts, str) else " ".join(facts)
    answer = "yes" if row["answer"] else "no"
    found = {"id": f"strategyqa/{row['qid']}", "question": row["question"], "answer": answer}
    found |= {"choices": ["yes", "no"], "answer_index": int(answer == "no")}
    return {**found, "solution": text.strip()}


strategyqa = Benchmark(
    version=1,
    source="https://github.com/eladsegal/strategyqa, arXiv:2101.02235",
    licence="MIT",
    splits={"train": 2061, "dev": 229},
    test_split="dev",
    fitness_split="train",
    shots_split="train",
    item=_item,
    forms={
        "chat": Form(ask=_chat, rules=_RULES, max_new_tokens=512),
        "base": Form(
            ask=_ask,
            rules=_RULES,
            shots=6,
            example=lambda item: f"{_ask(item)} {item.gold}",
            max_new_tokens=128,
            stop=("\n\n", "Q:"),
        ),
    },
    # The hub divides the 2290 questions in another way: `smelt fetch` says so.
    hub=Hub("ChilleD/StrategyQA", {"train": "train", "dev": "test"}, _convert),
)
