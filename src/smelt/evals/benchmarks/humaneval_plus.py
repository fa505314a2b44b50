"""HumanEval+: HumanEval with many more tests for each function. (arXiv:2305.01210)

Two kinds of rows are read. Those of the hub are the released HumanEval+ (group humaneval_plus).
Those with EvalPlus' contract and inputs are its early material of April 2023, without the inputs
made by type-aware mutation (group humaneval_plus_seed): a row of its own, since the scores differ.
"""

from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row
from smelt.evals.programs import (
    COMPLETION_STOPS,
    PLUS_SECONDS,
    complete_ask,
    completion_item,
    completion_job,
    completion_row,
    plus_tests,
)
from smelt.verify.sandbox.job import Job

# A root is right when the polynomial is near zero there, not when it is the reference's root; where
# the reference finds none, there is nothing to hold against a program.
_ZERO = "abs(_space['poly'](*_given, {})) <= _ATOL"
_ROOT = f"{_ZERO.format('_found')} or not {_ZERO.format('_wanted')}"


def _item(row: Row) -> Item | None:
    tests, function = row["tests"], str(row["entry_point"])
    if isinstance(tests, str):
        return completion_item(row, "humaneval_plus", f"{tests}\ncheck({function})\n")
    if not tests["plus_input"]:
        return None  # nothing that HumanEval has not
    same = _ROOT if function == "find_zero" else "_same(_found, _wanted)"
    reference = str(row["question"]) + str(row["solution"])
    source = plus_tests(reference, function, tests, same)
    return completion_item(row, "humaneval_plus_seed", source)


def _job(written: str, item: Item) -> Job:
    return completion_job(written, item, PLUS_SECONDS)


humaneval_plus = Benchmark(
    version=1,
    source="https://github.com/evalplus/evalplus, arXiv:2305.01210; rows of the group "
    "humaneval_plus_seed are its early material, not the released set",
    licence="Apache-2.0",
    splits={"test": 164},
    test_split="test",
    fitness_split=None,
    item=_item,
    forms={
        "chat": Form(ask=complete_ask, job=_job, max_new_tokens=1024),
        "base": Form(
            ask=lambda item: item.question, job=_job, max_new_tokens=1024, stop=COMPLETION_STOPS
        ),
    },
    hub=Hub("evalplus/humanevalplus", {"test": "test"}, completion_row),
)
