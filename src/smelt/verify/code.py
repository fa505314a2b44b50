"""Programs: a generated program must pass the gold tests, in a sandbox.

The program runs in one box, the tests in another, where each name that the tests use and do not
define is a caller of the program's: values cross as plain literals, so a program can fail the tests
but not forge their verdict. See docs/sandbox.md.
Reasons: `right`, `wrong_answer` (a test failed), `error` (the program raised), `syntax_error`,
`missing_function`, `timeout`, `memory`, `output_limit`, `died`, `empty`.

>>> score("def double(x):\\n    return 2 * x", "assert double(4) == 8")
(True, 'right')
>>> score("```python\\ndef double(x):\\n    return x * x\\n```", "assert double(4) == 8")
(False, 'wrong_answer')
>>> score("Double it by doubling.", "assert double(4) == 8")
(False, 'syntax_error')
"""

import ast
import atexit
import builtins
import os
import sys
import threading
import warnings

from smelt.verify.sandbox.answer import program
from smelt.verify.sandbox.isolation import isolation
from smelt.verify.sandbox.job import Job
from smelt.verify.sandbox.pool import REASONS, Pair, run

__all__ = ["REASONS", "called", "isolation", "job", "run", "score"]

_kept: dict[tuple[int, str], Pair] = {}
_lock = threading.Lock()


def called(tests: str) -> tuple[str, ...]:
    """The names that tests use and neither define, import nor find in Python itself, sorted.

    Raises ValueError for tests that are no Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape in a string is not our affair
            nodes = list(ast.walk(ast.parse(tests)))
    except SyntaxError as error:
        raise ValueError(f"the tests are no Python: {error}") from error
    used: set[str] = set()
    bound = set(dir(builtins))
    for node in nodes:
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return tuple(sorted(used - bound))


def job(source: str, tests: str, seconds: float = 10.0) -> Job:
    """A job whose functions are read off the tests; modules of Python's that they name are
    imported. Raises ValueError for tests that are no Python."""
    names = called(tests)
    modules = [name for name in names if name in sys.stdlib_module_names]
    functions = tuple(name for name in names if name not in modules)
    imports = "".join(f"import {name}\n" for name in modules)
    return Job(source, functions, imports + tests, seconds)


def score(answer: str, gold: str, prompt: str = "", *, unsafe: bool = False) -> tuple[bool, str]:
    """Does the program in the answer pass the gold tests?

    Never raises on answers. Raises ValueError when the gold tests are no Python, UserError where no
    isolation is possible. Its boxes stay for the next call.
    """
    level = isolation(unsafe)
    wanted = job("", gold)
    source = program(answer, wanted.functions)
    with _lock:
        key = (os.getpid(), level)  # a forked process must not talk to its parent's boxes
        if key not in _kept:
            _kept[key] = Pair(level)
        return _kept[key].judge(Job(source, wanted.functions, wanted.tests))


@atexit.register
def close() -> None:
    """End the boxes that `score` keeps."""
    for (process, _), pair in list(_kept.items()):
        if process == os.getpid():
            pair.close()
    _kept.clear()
