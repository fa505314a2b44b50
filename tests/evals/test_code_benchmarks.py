"""Benchmarks of programs: canonical solutions score 1, mutants 0, on hand-written rows as the hub
has them and, where ../shared/data is there, on the real ones."""

import ast
import dataclasses
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from smelt.core import registry
from smelt.data.document import normalize
from smelt.evals.benchmark import Benchmark, Item
from smelt.evals.programs import names_used, plus_tests, source_of
from smelt.verify import code
from smelt.verify.sandbox.job import Job
from smelt.verify.sandbox.pool import REASONS
from tests.pages import ROOT

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FOLDERS = {
    "humaneval": "humaneval", "humaneval_plus": "humaneval_plus_seed", "mbpp": "mbpp",
    "mbpp_plus": "mbpp_plus", "cruxeval_output": "cruxeval", "cruxeval_input": "cruxeval",
}  # fmt: skip
COUNTS = {"humaneval": 164, "humaneval_plus": 161, "mbpp": 973, "mbpp_plus": 395,
          "cruxeval_output": 800, "cruxeval_input": 800}  # fmt: skip
real = pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")


PROMPT = (
    'def helper(x):\n    return x + 1\n\n\ndef area(a: int, b: int) -> int:\n    """ Area.\n'
    "    >>> area(2, 3)\n    6\n    \"\"\"\n"
)  # fmt: skip
CHECK = "def check(candidate):\n    assert candidate(2, 3) == helper(5)\n"
# In the manner of EvalPlus' test programs: inputs, results, a comparison by numpy.
PLUS = (
    "import numpy as np\ndef same(a, b, atol):\n    if atol:\n"
    "        np.testing.assert_allclose(a, b, atol=atol)\n    else:\n        assert a == b\n"
)
HUB: dict[str, list[dict[str, Any]]] = {
    "humaneval": [
        {"task_id": "HumanEval/0", "prompt": PROMPT, "canonical_solution": "    return a * b\n",
         "test": CHECK, "entry_point": "area"},
    ],
    "humaneval_plus": [
        {"task_id": "HumanEval/0", "prompt": PROMPT, "canonical_solution": "    return a * b\n",
         "test": PLUS + "def check(candidate):\n    for given, out in [([2, 3], 6), ([0, 9], 0)]:\n"
         "        same(candidate(*given), out, 0)\n        same(candidate(*given), out, 1e-6)\n",
         "entry_point": "area"},
    ],
    "mbpp": [
        {"task_id": 11, "text": "Write a function for the area of a box.",
         "code": "class Box(object):\r\n\tdef __init__(s, a, b):\r\n\t\ts.a, s.b = a, b\r\n"
         "SCALE = 1\r\ndef area(box):\r\n\treturn box.a * box.b * SCALE",
         "test_list": ["assert area(Box(2, 3)) == 6", "assert math.isclose(area(unit), 1)"],
         "test_setup_code": "unit = Box(1, 1)", "challenge_test_list": []},
        {"task_id": 1, "text": "Never shown.", "code": "def f(): return 1",
         "test_list": ["assert f() == 1"], "test_setup_code": "", "challenge_test_list": []},
    ],
    "mbpp_plus": [
        {"task_id": 2, "prompt": "Write a function for an area.", "source_file": "x",
         "code": "def area(a, b):\n    return a * b", "test_imports": ["import math"],
         "test_list": ["assert area(2, 3) == 6"],
         "test": PLUS + "for given, out in [([2, 3], 6), ([math.pi, 1], math.pi)]:\n"
         "    same(area(*given), out, 1e-9)\n"},
    ],
    "cruxeval_output": [
        {"id": "sample_0", "code": "def f(x):\n    return {x: [x + 1]}", "input": "1",
         "output": "{1: [2]}"},
        {"id": "sample_1", "code": "def f():\n    return ') =='", "input": "", "output": "') =='"},
    ],
}  # fmt: skip
HUB["cruxeval_input"] = HUB["cruxeval_output"]
NAMES = sorted(HUB)


def hub_items(name: str) -> tuple[Benchmark, list[Item]]:
    benchmark: Benchmark = registry.load("benchmark", name)
    assert benchmark.hub is not None
    rows = [benchmark.hub.convert(row) for row in HUB[name]]
    return benchmark, [item for item in map(benchmark.item, filter(None, rows)) if item]


def jobs_of(benchmark: Benchmark, items: list[Item], answers: list[str], form: str) -> list[Job]:
    make = benchmark.forms[form].job
    assert make is not None
    return [make(answer, item) for answer, item in zip(answers, items, strict=True)]


def real_items(name: str, sample: int | None = None) -> tuple[Benchmark, list[Item]]:
    benchmark: Benchmark = registry.load("benchmark", name)
    rows = []
    for path in sorted((DATA / FOLDERS[name]).glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines]
    if sample is not None:
        rows = random.Random(7).sample(rows, min(sample, len(rows)))
    return benchmark, [item for item in map(benchmark.item, rows) if item is not None]


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("name", NAMES)
def test_rows_of_the_hub(name: str) -> None:
    benchmark, items = hub_items(name)
    assert items
    assert "mbpp/1" not in [item.id for item in items]
    for form in benchmark.forms:
        golds = [item.gold for item in items]
        fenced = [f"So:\n```python\n{gold}\n```\nDone." for gold in golds]
        nothing = ["", "I do not know.", "def area(*given): return None", "```python\npass\n```"]
        jobs = jobs_of(benchmark, items, golds, form)
        if not name.startswith("cruxeval"):
            jobs += jobs_of(benchmark, items, fenced, form)
        assert code.run(jobs) == [(True, "right")] * len(jobs)
        for answer in nothing:
            for right, reason in code.run(jobs_of(benchmark, items, [answer] * len(items), form)):
                assert not right
                assert reason in REASONS[1:]


@pytest.mark.parametrize("name", NAMES)
def test_prompts_end_where_the_answer_begins(name: str) -> None:
    benchmark, items = hub_items(name)
    for item in items:
        for form in benchmark.forms.values():
            asked = form.ask(item)
            assert item.question.strip() in asked
            if not name.startswith("cruxeval"):
                assert item.gold.strip() not in asked
            for stop in form.stop:
                assert stop not in item.gold
    mbpp, (item, *_) = hub_items("mbpp")
    base = mbpp.forms["base"]
    assert base.example is not None
    assert base.ask(item) == (
        "You are an expert Python programmer, and here is your task: Write a function for the area "
        "of a box. Your code should pass these tests:\n\nassert area(Box(2, 3)) == 6\n"
        "assert math.isclose(area(unit), 1)\n[BEGIN]\n"
    )
    assert base.example(item) == base.ask(item) + item.gold + "\n[DONE]"


@pytest.mark.parametrize("name", NAMES)
def test_damaged_rows_are_errors(name: str) -> None:
    benchmark, _ = hub_items(name)
    with pytest.raises(KeyError):
        benchmark.item({"id": "x"})
    if not name.startswith("cruxeval"):
        row = {"id": "x", "question": "def f(:", "solution": "def f(:", "entry_point": "f"}
        with pytest.raises((KeyError, ValueError, TypeError)):
            benchmark.item({**row, "tests": ["assert f("], "meta": {"shown": []}})


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("{1: [2]}", True), ("{ 1 : [1+1] }", True), ("[ANSWER]\nassert f(1) == {1: [2]}\n", True),
        ("f(1) == {1: [2]}", True), ("assert f( 1 ) == {1: [2]} [/ANSWER]", True),
        ("{1: (2,)}", False), ("f(1)", False), ("assert f(1) == f(1)", False), ("??", False),
        ("1)\nimport os\nos._exit(0)\n(1", False),
        ("type('E', (), {'__eq__': lambda a, b: True})()", False),
    ],
)  # fmt: skip
def test_outputs_are_read(written: str, right: bool) -> None:
    benchmark, items = hub_items("cruxeval_output")
    assert code.run(jobs_of(benchmark, items[:1], [written], "base"))[0][0] is right


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("1", True), ("f(1)", True), ("f(x=1)", True), ("assert f(1) == {1: [2]}", True),
        ("f(True)", True), ("[ANSWER]assert f(2-1) == {1: [2]}[/ANSWER] so", True),
        ("2", False), ("f(1, 1)", False), ("f()", False), ("assert f(1", False),
    ],
)  # fmt: skip
def test_inputs_are_read(written: str, right: bool) -> None:
    benchmark, items = hub_items("cruxeval_input")
    assert code.run(jobs_of(benchmark, items[:1], [written], "base"))[0][0] is right


@pytest.mark.usefixtures("isolated")
def test_plus_tests_use_valid_inputs_only() -> None:
    """Invalid inputs and those without a result are left out; lists become tuples where the
    contract wants these; floats are compared nearly."""
    reference = "def mean(t):\n    return sum(t) / len(t)\n"
    tests = {
        "contract": "    assert isinstance(t, tuple)\n",
        "base_input": [[[1.0, 2.0]]],
        "plus_input": [[[]], ["12"], [[0.1, 0.2, 0.3]]],
        "atol": 0,
    }
    near = "def mean(t):\n    assert type(t) is tuple and len(t)\n    return sum(t) * (1 / len(t))"
    far = "def mean(t):\n    return sum(t) / len(t) + 1e-3"
    source = plus_tests(reference, "mean", tests, read=True)
    strict = plus_tests(reference, "mean", tests)
    jobs = [Job(near, ("mean",), source), Job(far, ("mean",), source), Job(near, ("mean",), strict)]
    assert code.run(jobs) == [(True, "right"), (False, "wrong_answer"), (False, "wrong_answer")]
    with pytest.raises(ValueError, match="does not define"):
        plus_tests(reference, "median", tests)
    with pytest.raises(ValueError, match="use nothing"):
        names_used("def f(): pass", "assert g() == 1")


@real
def test_tasks_of_mbpp_plus_that_a_search_may_see() -> None:
    """MBPP's fitness split shares tasks with MBPP+, most in other words: as docs/search.md says."""
    mbpp, (_, plus) = registry.load("benchmark", "mbpp"), real_items("mbpp_plus")
    path = DATA / "mbpp" / f"{mbpp.fitness_split}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as rows:
        fitness = [item for item in (mbpp.item(json.loads(row)) for row in rows) if item]
    twins = {item.id.casefold(): item for item in plus}
    shared = [(item, twins[item.id]) for item in fitness if item.id in twins]
    for item, twin in shared:
        assert set(twin.meta["functions"]) & set(item.meta["functions"])
    same = sum(normalize(item.question) == normalize(twin.question) for item, twin in shared)
    page = " ".join((ROOT / "docs" / "search.md").read_text().split())
    assert f"{len(shared)} of the {len(fitness)} items of MBPP's {mbpp.fitness_split} split" in page
    assert f"{same} in the same words, {len(shared) - same} reworded" in page
    assert (len(shared), len(fitness), same) == (41, 90, 13)


@pytest.mark.usefixtures("isolated")
@real
@pytest.mark.parametrize(
    ("name", "sample"),
    [("humaneval", 164), ("mbpp", 200), ("cruxeval_output", 100), ("cruxeval_input", 100),
     ("humaneval_plus", 12), ("mbpp_plus", 12)],
)  # fmt: skip
def test_canonical_solutions_are_right(name: str, sample: int) -> None:
    benchmark, items = real_items(name, sample)
    jobs = jobs_of(benchmark, items, [item.gold for item in items], "chat")
    wrong = [(item.id, v) for item, v in zip(items, code.run(jobs), strict=True) if not v[0]]
    assert wrong == []


@pytest.mark.usefixtures("isolated")
@real
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_canonical_solution_is_right_in_every_form(name: str) -> None:
    benchmark, items = real_items(name)
    assert len(items) == COUNTS[name]
    for form in benchmark.forms:
        jobs = jobs_of(benchmark, items, [item.gold for item in items], form)
        wrong = [(item.id, v) for item, v in zip(items, code.run(jobs), strict=True) if not v[0]]
        assert wrong == []


def none_instead(job: Job) -> Job:
    """The tested functions return None."""
    lines = [f"\n\ndef {name}(*given, **named): return None" for name in job.functions]
    return dataclasses.replace(job, program=job.program + "".join(lines))


def wrapped(job: Job) -> Job:
    """The right results, each in a tuple with something else."""
    lines = [
        f"\n\ndef {name}(*given, _right={name}, **named): return 'mutant', _right(*given, **named)"
        for name in job.functions
    ]
    return dataclasses.replace(job, program=job.program + "".join(lines))


SWAPS: dict[type, Any] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.Lt: ast.GtE,
    ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.Mod: ast.FloorDiv, ast.FloorDiv: ast.Mod,
}  # fmt: skip


class Swap(ast.NodeTransformer):
    """Every operator becomes another, every number grows by one."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        if isinstance(node, ast.operator | ast.cmpop | ast.boolop):
            return SWAPS.get(type(node), type(node))()
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return ast.Constant(node.value + 1)
        return node


def swapped(job: Job) -> Job:
    return dataclasses.replace(
        job, program=ast.unparse(Swap().visit(source_of(job.program, "it"))), seconds=0.5
    )


def assert_mutants_are_wrong(name: str, sample: int | None) -> None:
    benchmark, items = real_items(name, sample)
    jobs = jobs_of(benchmark, items, [item.gold for item in items], "chat")
    ids = [item.id for item in items]
    for mutate in (none_instead, wrapped):
        verdicts = code.run([mutate(job) for job in jobs])
        assert [id for id, verdict in zip(ids, verdicts, strict=True) if verdict[0]] == []
    plain = [ast.unparse(source_of(job.program, "it")) for job in jobs]
    mutants = [
        new for old, new in zip(plain, map(swapped, jobs), strict=True) if new.program != old
    ]
    verdicts = code.run(mutants)
    assert {reason for _, reason in verdicts} <= set(REASONS)
    assert sum(right for right, _ in verdicts) <= 0.1 * len(verdicts)


@pytest.mark.usefixtures("isolated")
@real
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_mutants_are_wrong(name: str) -> None:
    assert_mutants_are_wrong(name, 40)


@pytest.mark.usefixtures("isolated")
@real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_all_mutants_are_wrong(name: str) -> None:
    assert_mutants_are_wrong(name, None)


@pytest.mark.usefixtures("isolated")
@real
@pytest.mark.parametrize("name", ["cruxeval_output", "cruxeval_input"])
def test_other_rows_answers_are_wrong(name: str) -> None:
    benchmark, items = real_items(name, 60)
    wrong = {"cruxeval_output": "'no such thing'", "cruxeval_input": "*[0] * 99"}[name]
    answers = [wrong] * len(items)
    verdicts = code.run(jobs_of(benchmark, items, answers, "base"))
    assert [item.id for item, (right, _) in zip(items, verdicts, strict=True) if right] == []
