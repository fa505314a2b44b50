"""MBPP+: MBPP's sound tasks with many more tests for each. (arXiv:2305.01210)

Rows of the hub (378 tasks) carry a test program. Rows with EvalPlus' contract and inputs are its
material of November 2023 (399 tasks): group mbpp_plus_2023, a row of its own.
"""

from typing import Any

from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row
from smelt.evals.programs import (
    PLUS_SECONDS,
    names_used,
    plus_tests,
    task_ask,
    task_job,
    task_text,
)
from smelt.verify.sandbox.job import Job

# Tasks of 2023 whose own reference fails its tests, or needs minutes or gigabytes for them.
_FAULTY = {"Mbpp/164", "Mbpp/255", "Mbpp/295", "Mbpp/599"}
# Results whose order is left open by the task, and matches that may be any object. (EvalPlus)
_UNORDERED = {
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
}  # fmt: skip
_MATCHES = {"check_str", "text_match_three", "text_starta_endb"}


def _item(row: Row) -> Item | None:
    tests, solution, meta = row["tests"], str(row["solution"]), row.get("meta", {})
    if row["id"] in _FAULTY and not isinstance(tests, str):
        return None
    if isinstance(tests, str):
        group, source = "mbpp_plus", tests
        shown = [str(test) for test in meta["shown"]]
    else:
        group, source = "mbpp_plus_2023", _source(row, tests)
        lines = str(tests["assertion"]).strip().splitlines()
        shown = [line for line in lines if line.startswith("assert")][:3]
    functions, imports = names_used(solution, source)
    about = {"shown": shown, "functions": functions, "tests": imports + source}
    return Item(str(row["id"]), group, str(row["question"]), solution, meta=about)


def _source(row: Row, tests: dict[str, Any]) -> str:
    function, same = str(row["entry_point"]), "_same(_found, _wanted)"
    if function in _UNORDERED:
        same = "set(_found) == set(_wanted)"
    elif function in _MATCHES:
        same = "(_found is not None) == (_wanted is not None)"
    plus = plus_tests(str(row["solution"]), function, tests, same, read=True)
    return f"{tests['assertion']}\n{plus}"


def _job(written: str, item: Item) -> Job:
    return task_job(written, item, PLUS_SECONDS)


def _convert(row: Row) -> Row:
    imports = "\n".join(row.get("test_imports", []))
    return {
        "id": f"Mbpp/{row['task_id']}",
        "question": row["prompt"],
        "answer": "",
        "solution": row["code"],
        "tests": f"{imports}\n{row['test']}",
        "meta": {"shown": list(row["test_list"])},
    }


mbpp_plus = Benchmark(
    version=1,
    source="https://github.com/evalplus/evalplus, arXiv:2305.01210; rows of the group "
    "mbpp_plus_2023 are its material of November 2023",
    licence="Apache-2.0",
    splits={"test": 378},
    test_split="test",
    fitness_split=None,
    item=_item,
    forms={
        "chat": Form(ask=task_ask, job=_job, max_new_tokens=1024),
        "base": Form(ask=task_text, job=_job, max_new_tokens=512, stop=("[DONE]",)),
    },
    hub=Hub("evalplus/mbppplus", {"test": "test"}, _convert),
)
