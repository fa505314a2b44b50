"""Sources that read: JSONL files with every kind of damage, Python's own files, reasoning-gym."""

import ast
import gzip
import sys
from pathlib import Path

import pytest

from smelt.core.errors import UserError
from smelt.data.document import Document, Skipped
from smelt.data.sources.jsonl import jsonl
from smelt.data.sources.python_code import python_code
from smelt.data.sources.python_prose import python_prose
from smelt.data.sources.reasoning_gym import SEED_SPACING, reasoning_gym
from smelt.verify.expression import verify_chain


def read(path: Path, **options: object) -> tuple[list[Document], list[str]]:
    rows = list(jsonl(0, path=str(path), **options))  # type: ignore[arg-type]
    docs = [row for row in rows if isinstance(row, Document)]
    return docs, [row.reason for row in rows if isinstance(row, Skipped)]


def test_jsonl_counts_every_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        b'{"text": "good"}', b"", b'{"text": "cut', b"[1]", b'{"body": "x"}', b'{"text": 3}',
        b'{"text": "  "}', b'{"text": "\\ud800"}', b"\xff\xfe{}", b"[" * 100_000,
        b'\xef\xbb\xbf{"text": "with a mark"}',
    ]  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    docs, reasons = read(path)
    assert [doc.text for doc in docs] == ["good", "with a mark"]
    assert reasons == [
        "empty_line", "malformed_json", "malformed_json", "missing_field", "missing_field",
        "empty_field", "not_text", "malformed_json", "malformed_json",
    ]  # fmt: skip


def test_jsonl_pairs_fields_and_meta(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        stream.write('{"question": "1+1?", "solution": "2", "gold": "2"}\n{"question": "x"}\n')
    docs, reasons = read(
        path, prompt="question", response="solution", separator=" ", meta={"answer": "gold"}
    )
    assert [(d.prompt, d.text, d.meta) for d in docs] == [("1+1? ", "1+1? 2", {"answer": "2"})]
    assert reasons == ["missing_field"]


def test_jsonl_takes_the_first_usable_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('bad\n{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    assert [doc.text for doc in read(path, max_documents=2)[0]] == ["a", "b"]


def test_jsonl_damaged_archive_and_contradiction(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(UserError, match="damaged archive"):
        read(path)
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match="damaged archive"):
        read(path)
    with pytest.raises(UserError, match="fields contradict"):
        read(path, prompt="a")


def test_prose_holds_docstrings_and_comments() -> None:
    docs = [d for d in python_prose(0, max_documents=400, max_chars=300) if isinstance(d, Document)]
    assert len(docs) == 400
    assert {doc.meta["kind"] for doc in docs} == {"docstring", "comment"}
    assert max(len(doc.text) for doc in docs) <= 300
    first = {doc.id for doc in docs}
    other = {d.id for d in python_prose(1, max_documents=400) if isinstance(d, Document)}
    assert len(first & other) < 100  # another seed, other files


def test_code_parses_and_is_not_run() -> None:
    modules = set(sys.modules)
    docs = [d for d in python_code(0, max_documents=200) if isinstance(d, Document)]
    assert set(sys.modules) == modules
    good = 0
    for doc in docs:
        assert len(doc.text) <= 3000
        try:
            good += len(ast.parse(doc.text).body) == 1
        except SyntaxError:  # a literal whose lines stand further left: for filter code_syntax
            continue
    assert good > 0.95 * len(docs)


def test_packages_are_read_by_distribution_name() -> None:
    docs = [d for d in python_prose(0, packages=["pydantic"]) if isinstance(d, Document)]
    assert docs
    assert all(doc.meta["file"].startswith("pydantic/") for doc in docs)
    with pytest.raises(UserError, match="not installed"):
        list(python_code(0, packages=["no-such-package"]))


def test_reasoning_gym_rows_are_confirmed_twice() -> None:
    tasks = ["basic_arithmetic", "chain_sum", "number_sorting", "circuit_logic"]
    rows = list(reasoning_gym(0, tasks=tasks, count=60))  # type: ignore[arg-type]
    docs = [row for row in rows if isinstance(row, Document)]
    assert len(docs) == 240
    assert {doc.domain for doc in docs} == {"math", "code", "logic"}
    for doc in docs:
        assert verify_chain(doc.prompt, doc.text[len(doc.prompt) :]) == (True, "right")
    reasons = {row.reason for row in rows if isinstance(row, Skipped)}
    known = {"not_writable", "out_of_range", "too_long", "repeated_prompt", "answers_differ"}
    assert reasons <= known
    assert any(doc.prompt.startswith("rev sort[") for doc in docs)
    # Ours are right where the answers differ: Python agrees with us, on sums with a product.
    for row in rows:
        if isinstance(row, Skipped) and row.reason == "answers_differ":
            problem, _, rest = row.text.removeprefix("Calculate ").partition(". ")
            theirs, ours = rest.split(" ", 1)
            assert eval(problem) == int(ours.rstrip(".").split("=")[-1]) != int(theirs)


def test_reasoning_gym_seeds_lie_apart() -> None:
    from reasoning_gym import create_dataset

    # The trap: item 1 of seed 3 is item 0 of seed 4.
    items = [create_dataset("chain_sum", size=2, seed=seed) for seed in (3, 4)]
    assert items[0][1]["question"] == items[1][0]["question"]
    with pytest.raises(UserError, match="a count of"):
        list(reasoning_gym(0, tasks=["chain_sum"], count=SEED_SPACING))
    first = {d.id for d in reasoning_gym(0, tasks=["number_sorting"], count=80)
             if isinstance(d, Document)}  # fmt: skip
    second = {d.id for d in reasoning_gym(1, tasks=["number_sorting"], count=80)
              if isinstance(d, Document)}  # fmt: skip
    assert len(first & second) < 20


def test_reasoning_gym_missing_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"smelt\[data\]"):
        list(reasoning_gym(0, tasks=["chain_sum"], count=1))
