"""GSM8K: grade-school word problems, the last number of the answer. (arXiv:2110.14168)"""

from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row
from smelt.evals.reading import flexible_extract, number_rule, strict_match
from smelt.verify import number

_RULES = {
    "number": number_rule,
    "flexible-extract": flexible_extract,
    "strict-match": strict_match,
}


def _item(row: Row) -> Item:
    answer = str(row["answer"]).rpartition("####")[2].strip()
    if number.last(answer) is None:
        raise ValueError(f"the answer {answer!r} has no number")
    solution = str(row.get("solution", ""))
    gold = f"{solution}\n#### {answer}".strip()
    return Item(str(row["id"]), "gsm8k", str(row["question"]).strip(), gold, answer)


def _ask(item: Item) -> str:
    return f"Question: {item.question}\nAnswer:"


def _chat(item: Item) -> str:
    return (
        f"{item.question}\n\nThink step by step, then put the final answer, "
        "a number without units, inside \\boxed{}."
    )


def _convert(row: Row) -> Row:
    solution, _, answer = str(row["answer"]).rpartition("####")
    answer = answer.strip().replace(",", "")
    return {"question": row["question"], "answer": answer, "solution": solution.strip()}


gsm8k = Benchmark(
    version=2,
    source="https://github.com/openai/grade-school-math, arXiv:2110.14168",
    licence="MIT",
    splits={"train": 7473, "test": 1319},
    test_split="test",
    fitness_split="train",
    shots_split="train",
    item=_item,
    forms={
        "chat": Form(ask=_chat, rules=_RULES, max_new_tokens=1024),
        "base": Form(
            ask=_ask,
            rules=_RULES,
            shots=5,
            example=lambda item: f"{_ask(item)} {item.gold}",
            max_new_tokens=256,
            stop=("Question:", "</s>", "<|im_end|>"),
        ),
    },
    hub=Hub("openai/gsm8k", {"train": "train", "test": "test"}, _convert, ("main",)),
)
