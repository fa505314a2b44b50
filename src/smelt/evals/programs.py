"""What benchmarks of programs share: how they ask, and the source of the tests that judge.

Tests run in the sandbox's judge, where a name of `Job.functions` calls the generated program.
"""

import ast
import sys
import warnings
from typing import Any

from smelt.evals.benchmark import Item, Row
from smelt.verify import code
from smelt.verify.sandbox import answer
from smelt.verify.sandbox.job import Job

# The end of what completes a function: the next thing at the margin. (arXiv:2107.03374, 3.1)
COMPLETION_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
SECONDS = 10.0
PLUS_SECONDS = 30.0
_BLOCK = "Answer with one Python code block that holds the whole program."

_PLUS = """
from copy import deepcopy as _copy
from itertools import product as _product
from math import inf, nan

_space = {}
exec(_REFERENCE, _space)
exec(_CONTRACT, _space)

def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

_readings = (
    lambda value: value,
    lambda value: tuple(value) if isinstance(value, list) else value,
    lambda value: list(map(_tuples, value)) if isinstance(value, list) else value,
    _tuples,
    lambda value: complex(value) if isinstance(value, str) else value,
    lambda value: float(value) if isinstance(value, str) else value,
)

def _valid(given):
    try:
        _space["_valid"](*_copy(given))
    except Exception:
        return False
    return True

def _arguments(given):
    if _valid(given):
        return given
    for readings in _product(_readings, repeat=len(given)) if _READ and len(given) < 4 else ():
        try:
            read = [reading(value) for reading, value in zip(readings, given)]
        except ValueError:
            continue
        if _valid(read):
            return read
    return None

def _floats(value):
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(each, float) for each in value)
    return isinstance(value, float)

def _near(found, wanted, atol):
    if isinstance(wanted, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(wanted):
            return False
        return all(_near(a, b, atol) for a, b in zip(found, wanted))
    if isinstance(wanted, (int, float, complex)) and isinstance(found, (int, float, complex)):
        return found == wanted or abs(found - wanted) <= atol + 1e-7 * abs(wanted)
    return found == wanted

def _same(found, wanted):
    if found == wanted:
        return True
    atol = _ATOL or (1e-6 if _floats(wanted) else 0)
    return bool(atol) and _near(found, wanted, atol)

_count = 0
for _given in _INPUTS:
    _given = _arguments(_given)
    if _given is None:
        continue
    try:
        _wanted = _space[_FUNCTION](*_copy(_given))
    except Exception:
        continue
    _count += 1
    _found = _CANDIDATE(*_given)
    assert _SAME
assert _count, "no valid input"
"""


def source_of(text: str, what: str) -> ast.Module:
    """The parsed source. Raises ValueError when it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape in a string is not our affair
            return ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{what} is no Python: {error}") from error


def complete_ask(item: Item) -> str:
    """A function to complete, for a chat."""
    return f"Complete this Python function.\n\n```python\n{item.question.strip()}\n```\n\n{_BLOCK}"


def task_ask(item: Item) -> str:
    """A task in words with the tests that its program must pass, for a chat."""
    shown = "\n".join(item.meta["shown"])
    return (
        f"{item.question}\n\nThe program must pass these tests:\n\n```python\n{shown}\n```"
        f"\n\n{_BLOCK}"
    )


def task_text(item: Item) -> str:
    """A task in words up to [BEGIN], as MBPP's authors ask. (arXiv:2108.07732)"""
    shown = "\n".join(item.meta["shown"])
    return (
        f"You are an expert Python programmer, and here is your task: {item.question} "
        f"Your code should pass these tests:\n\n{shown}\n[BEGIN]\n"
    )


def completion_row(row: Row) -> Row:
    """A row of the hub's HumanEval, or HumanEval+, as one of ours."""
    return {
        "id": row["task_id"],
        "question": row["prompt"],
        "answer": "",
        "solution": row["canonical_solution"],
        "tests": row["test"],
        "entry_point": row["entry_point"],
    }


def completion_item(row: Row, group: str, tests: str) -> Item:
    """An item whose gold text continues its question. Raises ValueError for a damaged row."""
    question, function = str(row["question"]), str(row["entry_point"])
    tree = source_of(question, "the question")
    asked = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]
    tree.body = [node for node in tree.body if node not in asked]
    # Some tests use helper functions that the question shows: the judge has its own.
    meta = {"function": function, "tests": f"{ast.unparse(tree)}\n{tests}"}
    return Item(str(row["id"]), group, question, str(row["solution"]), meta=meta)


def completion_job(written: str, item: Item, seconds: float = SECONDS) -> Job:
    """The function of a question, completed or written anew, with its tests."""
    function = item.meta["function"]
    program = answer.completed(item.question, written, function) if written.strip() else ""
    return Job(program, (function,), item.meta["tests"], seconds)


def task_job(written: str, item: Item, seconds: float = SECONDS) -> Job:
    """A program for a task in words, with its tests; `[BEGIN]` and `[DONE]` may stand around it."""
    functions = tuple(item.meta["functions"])
    program = answer.program(answer.between(written, "[BEGIN]", "[DONE]"), functions)
    return Job(program, functions, item.meta["tests"], seconds)


def names_used(solution: str, tests: str) -> tuple[list[str], str]:
    """The names of a solution that its tests use; the imports that the tests lack.

    Raises ValueError when either is no Python or the tests use nothing of the solution.
    """
    used = {
        node.id
        for node in ast.walk(source_of(tests, "the tests"))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    defined: set[str] = set()
    for node in source_of(solution, "the solution").body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {name.id for name in node.targets if isinstance(name, ast.Name)}
    if not used & defined:
        raise ValueError("the tests use nothing that the solution defines")
    modules = [name for name in code.called(tests) if name in sys.stdlib_module_names - defined]
    return sorted(used & defined), "".join(f"import {name}\n" for name in modules)


def plus_tests(
    reference: str,
    function: str,
    tests: dict[str, Any],
    same: str = "_same(_found, _wanted)",
    *,
    read: bool = False,
) -> str:
    """Source that compares a function with its reference on every input that meets the contract.

    tests: EvalPlus' contract, base_input, plus_input and atol; same: what must hold of `_found`,
    `_wanted` and `_given`; read: JSON has neither tuples nor complex numbers, so that an input that
    breaks the contract is read with these instead. Inputs that no reading makes valid, and those on
    which the reference itself fails, are left out. Raises ValueError for a damaged row.
    """
    found = [
        node
        for node in source_of(reference, "the reference").body
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    if not found:
        raise ValueError(f"the reference does not define {function}")
    contract = str(tests["contract"]).rstrip() or "    pass"
    inputs = [*tests["base_input"], *tests["plus_input"]]
    values = {
        "_INPUTS": repr(inputs),
        "_REFERENCE": repr(reference),
        "_CONTRACT": repr(f"def _valid({ast.unparse(found[0].args)}):\n{contract}\n"),
        "_ATOL": repr(tests.get("atol", 0)),
        "_FUNCTION": repr(function),
        "_READ": repr(read),
    }
    head = "from math import inf, nan\n"
    head += "".join(f"{name} = {value}\n" for name, value in values.items())
    return head + _PLUS.replace("_CANDIDATE", function).replace("_SAME", same)
