"""MBPP: short Python programs from a sentence and three tests. (arXiv:2108.07732)"""

from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row
from smelt.evals.programs import names_used, task_ask, task_job, task_text


def _item(row: Row) -> Item | None:
    if row["id"] == "mbpp/1":
        return None  # the solved examples of the paper are tasks 2, 3 and 4
    shown, solution = [str(test) for test in row["tests"]], str(row["solution"])
    tests = "\n".join([str(row.get("meta", {}).get("setup", "")), *shown])
    functions, imports = names_used(solution, tests)
    meta = {"shown": shown, "functions": functions, "tests": imports + tests}
    return Item(str(row["id"]), "mbpp", str(row["question"]), solution, meta=meta)


def _convert(row: Row) -> Row:
    meta = {"setup": row["test_setup_code"], "challenge_tests": list(row["challenge_test_list"])}
    return {
        "id": f"mbpp/{row['task_id']}",
        "question": row["text"],
        "answer": "",
        "solution": row["code"],
        "tests": list(row["test_list"]),
        "meta": meta,
    }


mbpp = Benchmark(
    version=1,
    source="https://github.com/google-research/google-research/tree/master/mbpp, arXiv:2108.07732",
    licence="CC-BY-4.0",
    splits={"prompt": 9, "test": 500, "validation": 90, "train": 374},
    test_split="test",
    fitness_split="validation",
    shots_split="prompt",
    item=_item,
    forms={
        "chat": Form(ask=task_ask, job=task_job, max_new_tokens=1024),
        "base": Form(
            ask=task_text,
            job=task_job,
            shots=3,
            example=lambda item: f"{task_text(item)}{item.gold}\n[DONE]",
            max_new_tokens=512,
            stop=("[DONE]",),
        ),
    },
    hub=Hub(
        "google-research-datasets/mbpp",
        {"prompt": "prompt", "test": "test", "validation": "validation", "train": "train"},
        _convert,
        ("full",),
    ),
)
