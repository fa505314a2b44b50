"""GSM8K: grade-school word problems, the last number of the answer. (arXiv:2110.14168)"""

from smelt.evals import word_problem
from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row


def _item(row: Row) -> Item:
    return word_problem.number_item(row, "gsm8k", str(row["answer"]).rpartition("####")[2].strip())


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
        "chat": Form(ask=word_problem.chat_ask, rules=word_problem.RULES, max_new_tokens=1024),
        "base": Form(
            ask=word_problem.ask,
            rules=word_problem.RULES,
            shots=5,
            example=lambda item: f"{word_problem.ask(item)} {item.gold}",
            max_new_tokens=256,
            stop=("Question:", "</s>", "<|im_end|>"),
        ),
    },
    hub=Hub("openai/gsm8k", {"train": "train", "test": "test"}, _convert, ("main",)),
)
