"""HumanEval: Python functions from their signature and docstring. (arXiv:2107.03374)"""

from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row
from smelt.evals.programs import (
    COMPLETION_STOPS,
    complete_ask,
    completion_item,
    completion_job,
    completion_row,
)


def _item(row: Row) -> Item:
    tests = f"{row['tests']}\ncheck({row['entry_point']})\n"
    return completion_item(row, "humaneval", tests)


humaneval = Benchmark(
    version=1,
    source="https://github.com/openai/human-eval, arXiv:2107.03374",
    licence="MIT",
    splits={"test": 164},
    test_split="test",
    fitness_split=None,
    item=_item,
    forms={
        "chat": Form(ask=complete_ask, job=completion_job, max_new_tokens=1024),
        "base": Form(
            ask=lambda item: item.question,
            job=completion_job,
            max_new_tokens=1024,
            stop=COMPLETION_STOPS,
        ),
    },
    hub=Hub("openai/openai_humaneval", {"test": "test"}, completion_row),
)
