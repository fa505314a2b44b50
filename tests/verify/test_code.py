"""The verifier of programs, the program in an answer, and the values that cross between boxes."""

import datetime
import json
import re
import time
from collections import Counter, OrderedDict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from smelt.evals.programs import PLUS_SECONDS, SECONDS
from smelt.verify import code
from smelt.verify.sandbox import answer
from smelt.verify.sandbox.inside import isolate, seccomp, server, wire
from smelt.verify.sandbox.job import Job
from smelt.verify.sandbox.pool import REASONS
from tests.pages import ROOT

DOUBLE = "def double(x):\n    return 2 * x\n"
GOLD = "assert double(4) == 8\nassert double('a') == 'aa'"


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (DOUBLE, "right"),
        (f"Here:\n```python\n{DOUBLE}```\nIt doubles.", "right"),
        (f"```py\nimport os\n```\nand\n~~~\n{DOUBLE}~~~", "right"),
        (f"```python\n{DOUBLE}", "right"),
        (f"Sure.\n{DOUBLE}", "right"),
        ("double = lambda x: x + x", "right"),
        ("class double:\n    def __new__(cls, x): return 2 * x", "right"),
        ("def double(x):\n    return 8", "wrong_answer"),
        ("def double(x):\n    return None", "wrong_answer"),
        ("def double(x):\n    pass", "wrong_answer"),
        ("def double(x):\n    return x / 0", "error"),
        ("def double(x):\n    return 2 * x\nraise ValueError", "error"),
        ("def twice(x):\n    return 2 * x", "missing_function"),
        ("def double(x:\n    return 2 * x", "syntax_error"),
        ("I would double it.", "syntax_error"),
        ("", "empty"),
        (" \n", "empty"),
        ("```python\n```", "empty"),
    ],
)
def test_reasons(written: str, reason: str) -> None:
    assert code.score(written, GOLD) == (reason == "right", reason)


@pytest.mark.usefixtures("isolated")
def test_tests_that_are_no_python_are_an_error_of_the_gold() -> None:
    with pytest.raises(ValueError, match="the tests are no Python"):
        code.score(DOUBLE, "assert double(")


def test_the_functions_are_what_tests_use_and_do_not_define() -> None:
    tests = (
        "import re as regex\nfrom math import pi as tau\ndef helper(a, *b, c=1, **d): return a\n"
        "class K: pass\nfor i in range(3): assert f(i, tau) == helper(K, regex)\n"
        "try: g()\nexcept ValueError as e: print(e)\nassert [h(x) for x in y] and (z := 3) and z\n"
    )
    assert code.called(tests) == ("f", "g", "h", "y")
    job = code.job("", "assert math.isclose(f(2), 4)")
    assert job == Job("", ("f",), "import math\nassert math.isclose(f(2), 4)")


VALUES: list[Any] = [
    None, True, 0, -0.0, 1.5, float("inf"), 1 << 5000, -(1 << 5000), "a\n\ud800", b"\0\xff", 1j,
    [1, [2, ()]], (1, (2,)), {1: [2], (1, 2): {"a"}}, {1, "b"}, frozenset({(1,)}), bytearray(b"x"),
    range(3, 9, 2), deque([1, 2]), Fraction(1, 3), Decimal("1.10"), int, ValueError,
    datetime.date(2026, 11, 21), datetime.datetime(2026, 11, 21, 1, 2, 3, 4),
    datetime.time(1, 2), datetime.timedelta(3, 4, 5),
]  # fmt: skip


def cross(value: Any) -> Any:
    def handle(thing: Any) -> list[Any]:
        return ["handle", 7]

    text = json.dumps(wire.encode(value, handle))
    return wire.decode(json.loads(text), lambda number: f"handle {number}")


# Named by type: the repr of a set follows the hash seed, and pytest's workers must agree on names.
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_literals_cross_unchanged(value: Any) -> None:
    found = cross(value)
    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_subclasses_cross_as_the_literal_they_hold_and_objects_as_handles() -> None:
    class Liar(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

        def __str__(self) -> str:
            return "lie"

    point = namedtuple("point", "x y")
    for value, plain in (
        (Liar("truth"), "truth"), (point(1, 2), (1, 2)), (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}), (type("Number", (int,), {})(5), 5),
    ):  # fmt: skip
        found = cross([value])[0]
        assert found == plain
        assert type(found) is type(plain)
    nan = cross(float("nan"))
    assert nan != nan
    for thing in (object(), print, iter([]), type("Own", (), {}), Liar):
        assert cross([thing]) == ["handle 7"]


@pytest.mark.parametrize(
    "text", ['["eval", "1"]', '["int", 5]', '["type", "print"]', "[]", '["list"]', '{"a": 1}',
             "[1]", '["bytes", "zz"]', '["date", "x"]', '["dict", [[["list", []], 1]]]']
)  # fmt: skip
def test_what_is_no_value_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        wire.decode(json.loads(text), lambda number: number)


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("class P:\n    def __init__(s, a): s.a = a\ndef f(ps): return sum(p.a for p in ps)",
         "assert f([P(1), P(2)]) == 3"),
        ("class N:\n    def __init__(s, v): s.v, s.next = v, None\n    def size(s, by=1):\n"
         "        return by * (1 + (s.next.size() if s.next else 0))",
         "n = N(1)\nn.next = N(2)\nassert n.next.v == 2 and n.size() == 2 and n.size(by=3) == 6"),
        ("class S:\n    def __init__(s): s.d = {}\n    def __setitem__(s, k, v): s.d[k] = v\n"
         "    def __getitem__(s, k): return s.d[k]\n    def __len__(s): return len(s.d)\n"
         "    def __iter__(s): return iter(s.d)\n    def __str__(s): return 'S'",
         "s = S()\ns['a'] = [1]\nassert s['a'] == [1] and len(s) == 1 and list(s) == ['a']\n"
         "assert str(s) == 'S' and 'a' in s and s != S() and s == s"),
        ("def f(n):\n    for i in range(n): yield i * i", "assert list(f(4)) == [0, 1, 4, 9]"),
        ("def f(): return (i for i in [1])",
         "g = f()\nassert next(g) == 1 and next(g, 2) == 2 and list(g) == []\n"
         "try: next(g)\nexcept StopIteration: pass\nelse: raise AssertionError"),
        ("class C:\n    def __init__(s): s.n = 0\n    def __iter__(s): return s\n"
         "    def __next__(s):\n        s.n += 1\n        if s.n > 3: raise StopIteration\n"
         "        return s.n\ndef f(): return C()",
         "c = f()\nassert next(c) == 1 and 2 in c and [*c] == [3] and sum(x for x in f()) == 6"),
        ("def f(n): return lambda x: x + n", "assert f(2)(3) == 5"),
        ("def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
         "try:\n    f(-1)\nexcept ValueError: pass\nelse: raise AssertionError\nassert f(1) == 1"),
        ("def f(t, x): return isinstance(x, t)", "assert f(int, 3) and not f(str, 3)"),
        ("def f(x):\n    x.append(1)\n    return x", "a = []\nassert f(a) == [1]\nassert a == []"),
    ],
)  # fmt: skip
def test_tests_reach_a_programs_objects(program: str, tests: str) -> None:
    assert code.score(program, tests) == (True, "right")


@pytest.mark.usefixtures("isolated")
def test_an_object_equals_nothing_but_itself() -> None:
    liar = "class E:\n    __eq__ = lambda s, o: True\n    __lt__ = __gt__ = __le__ = __eq__\n"
    liar += "    __sub__ = __abs__ = __round__ = __float__ = __index__ = lambda s, *o: 0.0\n"
    liar += "    __contains__ = __enter__ = __exit__ = __eq__\ndef f(): return E()"
    for tests in (
        "assert f() == 3",
        "assert f() < 3",
        "assert f() == f()",
        "assert not f() != f()",
        "assert abs(f() - 3) < 1e-6",
        "assert round(f()) == 0.0",
        "assert float(f()) == 0.0",
        "assert 3 in f()",
        "with f(): raise AssertionError",
    ):
        assert code.score(liar, tests) == (False, "wrong_answer")


@pytest.mark.usefixtures("isolated")
def test_the_same_program_gives_the_same_results() -> None:
    """Order of sets and draws of random numbers do not change from box to box."""
    program = "import random\ndef f(): return [list({'a', 'b', 'c', 'd', 'e'}), random.random()]"
    tests = "import random\nwanted = [list({'a', 'b', 'c', 'd', 'e'}), random.random()]\n"
    job = Job(program, ("f",), tests + "assert f() == wanted\nassert f() != wanted")
    assert code.run([job, job], workers=2) == [(True, "right")] * 2


@pytest.mark.usefixtures("isolated")
def test_a_source_that_no_message_holds_is_a_verdict() -> None:
    """Characters that take twelve bytes each on the way."""
    assert code.score("# " + "\U0001f600" * 1_900_000, GOLD) == (False, "output_limit")


@pytest.mark.usefixtures("isolated")
def test_numpy_starts_no_threads() -> None:
    """It would start one for each core, up to the limit of processes."""
    pytest.importorskip("numpy")
    program = "import numpy, os\ndef threads(): return len(os.listdir('/proc/self/task'))"
    assert code.score(program, "assert threads() == 1") == (True, "right")


def test_long_fences_take_no_time() -> None:
    begun = time.process_time()
    for fill in ("`", " ", "-", "1"):
        assert answer.blocks("```" + fill * 50_000) == []
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("    return x + x\n", "P\ndef f(x):\n    'doc'\n    return x + x\n"),
        ("def f(x):\n    return 1\n", "P\n\ndef f(x):\n    return 1\n"),
        ("```python\ndef f(x):\n    return 1\n```", "P\n\ndef f(x):\n    return 1\n"),
        ("Body:\n```\n    return 1\n```", "P\ndef f(x):\n    'doc'\n    return 1\n"),
    ],
)
def test_a_prompt_is_completed(written: str, wanted: str) -> None:
    assert answer.completed("P\ndef f(x):\n    'doc'\n", written, "f") == wanted


def test_between_marks_that_may_be_missing() -> None:
    assert answer.between("a [BEGIN]b[DONE] c", "[BEGIN]", "[DONE]") == "b"
    assert answer.between("b[DONE] c", "[BEGIN]", "[DONE]") == "b"
    assert answer.between("b", "[BEGIN]", "[DONE]") == "b"


def test_the_filter_jumps_where_it_should() -> None:
    """The filter is interpreted here, instruction by instruction, for both machines."""
    import struct

    def verdict(machine: str, architecture: int, number: int, flags: int = 0) -> int:
        lines = list(struct.iter_unpack("=HBBI", seccomp.filter_program(machine)))
        data = {0: number, 4: architecture, 16: flags}
        at, value = 0, 0
        while True:
            operation, yes, no, constant = lines[at]
            at += 1
            match operation:
                case 0x20:
                    value = data[constant]
                case 0x06:
                    return int(constant)
                case 0x15:
                    at += yes if value == constant else no
                case 0x35:
                    at += yes if value >= constant else no
                case 0x45:
                    at += yes if value & constant else no

    allow, refuse, none = 0x7FFF0000, 0x50001, 0x50026
    for machine, architecture, numbers in (
        ("x86_64", 0xC000003E, {"read": 0, "fork": 57, "ptrace": 101, "socket": 41, "clone": 56}),
        (
            "aarch64",
            0xC00000B7,
            {"read": 63, "fork": 93, "ptrace": 117, "socket": 198, "clone": 220},
        ),
    ):
        assert verdict(machine, architecture, numbers["read"]) == allow
        assert verdict(machine, architecture, numbers["fork"]) == allow
        assert verdict(machine, architecture, numbers["ptrace"]) == refuse
        assert verdict(machine, architecture, numbers["socket"]) == refuse
        assert verdict(machine, architecture, numbers["clone"], 17) == allow
        assert verdict(machine, architecture, numbers["clone"], 0x10000011) == refuse
        limits = {"x86_64": 302, "aarch64": 261}[machine]
        assert verdict(machine, architecture, limits, 0) == allow
        assert verdict(machine, architecture, limits, 1) == refuse
        assert verdict(machine, architecture, 435) == none
        assert verdict(machine, architecture, 442) == refuse
        assert verdict(machine, architecture, 0x40000001) == refuse
        assert verdict(machine, 0x40000003, numbers["read"]) == refuse
    assert seccomp.filter_program("riscv64") == b""


@pytest.mark.usefixtures("isolated")
def test_the_example_of_the_docs() -> None:
    page = (ROOT / "docs" / "sandbox.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    lines = [line for line in block.splitlines() if line.startswith("code.")]
    found = [eval(line.partition("  # ")[0], {"code": code}) for line in lines]
    assert found[0] in ("bubblewrap", "namespaces")
    assert found[1:] == [(True, "right"), [(True, "right")]]
    for line, value in zip(lines[1:], found[1:], strict=True):
        assert line.partition("  # ")[2] == repr(value).replace("'", '"')
    for reason in REASONS:
        assert f"`{reason}`" in page


def test_the_limits_of_the_docs() -> None:
    page = (ROOT / "docs" / "sandbox.md").read_text()
    _, _, table = page.partition("| limit | value | reason in the record |\n|---|---|---|\n")
    rows = [line.strip("| ").split(" | ") for line in table.partition("\n\n")[0].splitlines()]
    assert server.TICK == 0.1
    looked = "looked at ten times a second"
    together = f"of all together {server.TOGETHER / 2**30:g} GiB, {looked}"
    per_second = server.clock(2) - server.clock(1)
    assert Job.seconds == SECONDS
    assert rows == [
        ["CPU seconds",
         f"`Job.seconds`, rounded up ({SECONDS:g}; HumanEval+ and MBPP+ {PLUS_SECONDS:g});"
         " one more where the signal is ignored",
         "`timeout`"],
        ["seconds on the clock",
         f"{per_second:g} times `Job.seconds`, and {server.clock(0):g}", "`timeout`"],
        ["memory of a process", f"{server.MEMORY >> 30} GiB", f"`memory` ({together})"],
        ["processes and threads", f"{server.PROCESSES}", "`error` (the program sees the failure)"],
        ["a file", f"{server.FILE_SIZE >> 20} MiB, {server.FILES} open", "`error`"],
        ["files and folders in `/tmp`",
         f"{isolate.FILES} (at `bubblewrap`, which sets no such limit, {looked})", "`error`"],
        ["printed output", f"{server.OUTPUT >> 20} MiB, thrown away", "`output_limit`"],
        ["a result", f"{wire.LIMIT >> 20} MiB", "`output_limit`"],
    ]  # fmt: skip
    assert f"its own, {isolate.TMP_MIB} MiB" in page
    assert f"`/tmp`, {isolate.TMP_MIB} MiB" in page
