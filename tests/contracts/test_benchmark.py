"""What every benchmark must do; its data are rows in the hub's schema, or made, and shared ones."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.evals.benchmark import Benchmark, Form, Item, sources
from smelt.evals.rows import read_items, split_file
from tests.evals.hub_rows import HUB_ROWS
from tests.evals.lmeval_cases import cut

NAMES = registry.names("benchmark")
LETTERS = "ABCDEFGHIJ"
GARBAGE = ("", " ", "\n", "I do not know.", "\x00", "=" * 5000, "9" * 5000, "(" * 500, "\ud800",
           "\\boxed{" * 50, "\u2212" * 40, "answer is ")  # fmt: skip
PIECES = ["answer is ", "Answer: ", "\\boxed{", "}", "(B)", "[", "]", ",", "1", "-", ".", "####",
          "no", "True", "\n", "$", "\\frac", "{", "9" * 60, "/0", "\u2212", "½", "٣"]  # fmt: skip
ANSWERS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES)).map("".join))
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
# What the shared files have instead of the benchmark's own number, and why.
OTHERS = {
    ("arc_challenge", "validation"): 294,  # a public copy that lost five
    ("mbpp", "prompt"): 10,  # one of them is no item
    ("mbpp_plus", "test"): 399,  # as of November 2023
}

CHAINS = [
    {"id": "1", "text": "max[352]*1-2=5*1-2=5-2=3.", "prompt": "max[352]*1-2=", "source": "x",
     "domain": "mc", "meta": {"task": "mc", "answer": "3", "verifier": "expression"}},
    {"id": "2", "text": "plain text", "prompt": "", "source": "x", "domain": "prose", "meta": {}},
]  # fmt: skip


@cache
def benchmark_of(name: str) -> Benchmark:
    found: Benchmark = registry.load("benchmark", name)
    return found


@cache
def rows_of(name: str) -> list[tuple[str, dict[str, Any]]]:
    """(split, row of ours): converted from the hub's schema, or made with seed 0."""
    benchmark = benchmark_of(name)
    rows = [("test", row) for row in CHAINS] if name == "chains" else []
    hubs = sources(benchmark)
    if hubs:
        assert name in HUB_ROWS, "add rows in the hub's schema to tests/evals/hub_rows.py"
        for split, given_rows in HUB_ROWS[name].items():
            for number, row in enumerate(given_rows):
                ours = hubs[split].convert(row)
                if ours is not None:
                    rows.append((split, {"id": f"{name}/{split}/{number}", **ours}))
    if benchmark.make is not None:
        rows += [(split, row) for split, made in benchmark.make(0).items() for row in made[:30]]
    return rows


@cache
def items_of(name: str) -> list[Item]:
    made = [benchmark_of(name).item(row) for _, row in rows_of(name) if "text" not in row
            or "prompt" in row]  # fmt: skip
    return [item for item in made if item is not None]


def generating(name: str) -> Iterator[Form]:
    return (form for form in benchmark_of(name).forms.values() if form.rules)


@pytest.mark.parametrize("name", NAMES)
def test_facts_are_sane(name: str) -> None:
    benchmark = benchmark_of(name)
    assert type(benchmark.version) is int
    assert benchmark.version >= 1
    assert benchmark.licence.strip()
    assert "arXiv:" in benchmark.source or benchmark.source.startswith("made")
    assert benchmark.fitness_split != benchmark.test_split
    assert all(count > 0 for count in benchmark.splits.values())
    named = {benchmark.test_split, benchmark.fitness_split, benchmark.shots_split} - {None}
    assert not benchmark.splits or named <= set(benchmark.splits)
    assert set(sources(benchmark)) <= set(benchmark.splits)
    assert benchmark.shots_split != benchmark.test_split
    assert benchmark.forms
    assert set(benchmark.forms) <= {"chat", "base"}
    for form in benchmark.forms.values():
        assert sum(part is not None for part in (form.job, form.options)) + bool(form.rules) == 1
        assert form.max_new_tokens > 0
        assert form.shots == 0 or (form.example is not None and benchmark.shots_split is not None)
        assert all(form.stop)
        assert form.contexts is None or form.options is not None
    assert benchmark.forms.get("chat", Form(str)).shots == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_gold_answer_is_right_and_nothing_is_wrong(name: str) -> None:
    assert items_of(name)
    for form in generating(name):
        for item in items_of(name):
            for number, rule in enumerate(form.rules.values()):
                score, reason = rule(cut(item.gold, form.stop), item)
                if number == 0:
                    assert (score, reason) == (1.0, "right"), (item.id, item.gold)
                for answer in GARBAGE:
                    score, reason = rule(answer, item)
                    assert score == 0, (answer, item.answer)
                    assert reason == reason.lower()
                    assert reason.replace("_", "").isalpha()
                    assert answer.strip() or reason not in ("right", "wrong_answer")


@pytest.mark.parametrize("name", NAMES)
@given(answer=ANSWERS)
@settings(max_examples=25, deadline=None)
def test_no_rule_raises_on_what_a_model_writes(name: str, answer: str) -> None:
    for form in generating(name):
        for item in items_of(name)[:5]:
            for rule in form.rules.values():
                score, reason = rule(answer, item)
                assert 0 <= score <= 1
                assert (reason == "right") == (score == 1)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_do_not_depend_on_the_answer(name: str) -> None:
    for item in items_of(name):
        other = replace(item, gold="QQQ", answer="B" if item.answer == "A" else "A")
        for form in benchmark_of(name).forms.values():
            assert form.ask(item).strip()
            for part in (form.ask, form.before, form.options, form.contexts):
                assert part is None or part(item) == part(other)
        assert item.group
        assert item.id
        if len(item.gold) > 30 and not item.choices:
            assert all(
                item.gold not in form.ask(item) for form in benchmark_of(name).forms.values()
            )


@pytest.mark.parametrize("name", NAMES)
def test_examples_show_the_answer_and_options_hold_it(name: str) -> None:
    for item in items_of(name):
        for form in benchmark_of(name).forms.values():
            if form.example is not None:
                text = form.example(item)
                shown = item.choices[LETTERS.index(item.answer)] if item.choices else item.gold
                assert shown in text or text.endswith(f" {item.answer}") or item.gold in text
            if form.options is None:
                continue
            options = form.options(item)
            assert len(options) == len(item.choices) >= 2
            assert 0 <= LETTERS.index(item.answer) < len(options)
            assert all(option.startswith(" ") and option.strip() for option in options)
            pairs = (
                list(zip(form.contexts(item), options, strict=True)) if form.contexts else options
            )
            assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_told_apart_and_damage_is_named(name: str, tmp_path: Path) -> None:
    ids = [(split, row["id"]) for split, row in rows_of(name)]
    assert len(set(ids)) == len(ids)
    for row in ({}, {"id": "1"}, {"id": "1", "question": "?", "answer": ""}):
        with pytest.raises((KeyError, ValueError)):
            benchmark_of(name).item(row)
    path = tmp_path / "data.jsonl"
    path.write_text('{"question": ')
    with pytest.raises(UserError, match=r"data.jsonl:1"):
        read_items(benchmark_of(name), path, None, [], "r")


@pytest.mark.parametrize("name", NAMES)
def test_shared_files_have_as_many_rows_as_the_benchmark(name: str) -> None:
    """And gold answers are right in all of them (every eleventh of large files)."""
    benchmark = benchmark_of(name)
    files = {split: split_file(SHARED / name, split) for split in benchmark.splits}
    if not any(files.values()):
        pytest.skip(f"no shared data of {name}")
    for split, path in files.items():
        if path is None:
            continue
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream]
        assert len(rows) == OTHERS.get((name, split), benchmark.splits[split])
        if "question" not in rows[0] or not list(generating(name)):
            continue  # prompts; and programs, which are run in tests of their own
        for row in rows[:: 11 if len(rows) > 1000 else 1]:
            item = benchmark.item(row)
            for form in generating(name) if item is not None else ():
                rule = next(iter(form.rules.values()))
                assert rule(cut(item.gold, form.stop), item) == (1.0, "right"), item.id
                assert rule("", item)[0] == 0
