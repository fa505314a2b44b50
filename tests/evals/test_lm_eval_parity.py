"""The same outputs through lm-eval and through smelt: every verdict equal, or listed and explained.

SMELT_LMEVAL_PYTHON=/path/to/python pytest tests/evals/test_lm_eval_parity.py

names a python with lm-eval; it needs ../shared/data too and takes some minutes. Without it only the
frozen verdicts on invented questions are compared (tests/evals/lmeval_frozen.json).
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from smelt.evals.benchmark import Item
from tests.evals.lmeval_cases import (
    Case,
    Row,
    cases,
    cut,
    fixed,
    job,
    load,
    material,
    read,
    shown_rows,
    spread,
)
from tests.evals.lmeval_compare import Tally, compare, run_lm_eval
from tests.evals.lmeval_differences import DIFFERENCES, VERSION, Difference, normal_prompt, table
from tests.evals.lmeval_frozen import FROZEN, case_of, freeze
from tests.evals.lmeval_ours import exam_of, heads_of, sheet_of, verdicts

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "lm-eval.md"
PYTHON = os.environ.get("SMELT_LMEVAL_PYTHON")
both = pytest.mark.skipif(
    PYTHON is None or not DATA.is_dir(),
    reason="SMELT_LMEVAL_PYTHON names no python with lm-eval, or no ../shared/data",
)
CASES = [*fixed().values(), *(case_of(f"{name}/x") for name in ("bbh", "mmlu_pro"))]


def counted(tallies: dict[str, Tally]) -> str:
    """The docs' table of counts."""
    lines = ["| reading | verdicts | equal | differ |", "|---|---:|---:|---|"]
    for name, tally in tallies.items():
        topics = "; ".join(f"{topic} {count}" for topic, count in sorted(tally.topics.items()))
        lines.append(f"| {name} | {tally.total} | {tally.equal} | {topics or 'none'} |")
    return "\n".join(lines)


def prompts_of(case: Case, rows: list[Row], shown: list[Row], shots: int) -> list[Any]:
    """Our prompts as lm-eval gives its own: texts, or pairs of prompt and option."""
    exam = exam_of(case, rows, shown, shots=shots)
    sheet = sheet_of(exam)
    if sheet.form.options is None:
        return list(sheet.prompts)
    return [[list(pair) for pair in own] for own in heads_of(sheet.form, sheet, exam)]


def same_prompt(case: Case, ours: Any, theirs: Any) -> bool:
    """Equal, but for the difference that the list names."""
    if isinstance(theirs, str):
        return bool(ours == normal_prompt(case.benchmark, theirs))
    return bool(ours == [[normal_prompt(case.benchmark, head), end] for head, end in theirs])


@pytest.fixture(scope="module")
def frozen() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FROZEN.read_text())
    return found


@pytest.mark.parametrize("name", json.loads(FROZEN.read_text())["cases"])
def test_frozen_verdicts(frozen: dict[str, Any], name: str) -> None:
    own, case = frozen["cases"][name], case_of(name)
    tallies: dict[str, Tally] = {}
    ours = verdicts(case, own["rows"], own["outputs"])
    compare(case, own["rows"], own["outputs"], ours, own["verdicts"], tallies)
    assert [line for tally in tallies.values() for line in tally.unexplained] == []
    for reading in case.rules:
        tally = tallies[f"{case.benchmark}: {reading}"]
        assert tally.equal > 0.6 * tally.total > 0
        assert sum(row[turn][reading] for row in ours for turn in range(len(row))) > 0


@pytest.mark.parametrize("name", json.loads(FROZEN.read_text())["cases"])
def test_frozen_prompts(frozen: dict[str, Any], name: str) -> None:
    own, case = frozen["cases"][name], case_of(name)
    if case.benchmark == "drop":
        pytest.skip("another prompt altogether: DIFFERENCES, drop, prompt")
    found = prompts_of(case, own["rows"], own["shown"], own["shots"])
    for ours, theirs in zip(found, own["prompts"], strict=True):
        assert same_prompt(case, ours, theirs), (ours, theirs)


def test_the_docs_have_the_list(frozen: dict[str, Any]) -> None:
    assert frozen["version"] == VERSION
    assert table() in DOCS.read_text(encoding="utf-8")


# Readings that are lm-eval's (their verdicts are compared below), by the score they stand beside.
THEIRS = {"number": "flexible-extract", "phrase": "get-answer", "letter": "custom-extract"}
READ = [one for one in DIFFERENCES if one.of in (*THEIRS, "stop texts")]


@pytest.mark.parametrize("one", READ, ids=lambda one: f"{one.benchmark}-{one.topic}")
def test_examples_are_examples(one: Difference) -> None:
    """The example of a listed difference is judged differently, and for that reason."""
    form = load(one.benchmark).forms["base"]
    case = next(case for case in CASES if case.benchmark == one.benchmark)
    choices = tuple("ABCDEFGHIJ") if one.of == "letter" else ()
    item = Item("x", one.benchmark, "?", one.gold, one.gold, choices, meta={"golds": [one.gold]})
    if one.of == "stop texts":
        ours, theirs = cut(one.example, form.stop), cut(one.example, case.stop)
        name = next(iter(case.rules))
        assert form.rules[name](ours, item)[0] != form.rules[name](theirs, item)[0]
        return
    score = form.rules[one.of](one.example, item)[0]
    other = form.rules[THEIRS[one.of]](one.example, item)[0]
    assert score != other
    assert one.applies is not None
    assert one.applies(one.example, one.gold, other, score)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """lm-eval's verdicts on real questions, and its prompts."""
    folder = tmp_path_factory.mktemp("parity")
    jobs: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    for name, case in cases(DATA).items():
        rows, outputs = material(case, DATA)
        file = folder / name.replace("/", "-")
        form = load(case.benchmark).forms["base"]
        shots = form.shots or (2 if form.example else 0)
        few = spread([row for row in read(DATA, case.benchmark, case.asked) if case.keep(row)], 4)
        shown = shown_rows(case, DATA, few)
        jobs[name] = job(case, file, rows, shown) | {"shots": 0, "outputs": outputs}
        jobs[f"{name} prompts"] = job(case, file.with_name(f"{file.name}-few"), few, shown) | {
            "shots": shots, "first": True,
        }  # fmt: skip
        asked[name] = (case, rows, outputs, few, shown, shots)
    return run_lm_eval(str(PYTHON), jobs, folder) | {"asked": asked}


@both
def test_real_verdicts(found: dict[str, Any]) -> None:
    """Every verdict on outputs for real questions; the counts are those of the docs."""
    tallies: dict[str, Tally] = {}
    for name, (case, rows, outputs, *_) in found["asked"].items():
        theirs = found["results"][name]
        assert tuple(theirs.get("stop", ())) == case.stop, name
        ours = verdicts(case, rows, outputs)
        compare(case, rows, outputs, ours, theirs["verdicts"], tallies)
    print(counted(tallies))
    assert [line for tally in tallies.values() for line in tally.unexplained] == []
    used = {topic for tally in tallies.values() for topic in tally.topics}
    missing = {one.topic for one in DIFFERENCES if one.applies} - used
    assert not missing, "listed, but nothing differs by it"
    assert counted(tallies) in DOCS.read_text(encoding="utf-8")


@both
def test_real_prompts(found: dict[str, Any]) -> None:
    """Prompts of base forms with the same solved examples."""
    for name, (case, _, _, few, shown, shots) in found["asked"].items():
        if case.benchmark == "drop":
            continue
        ours = prompts_of(case, few, shown, shots)
        for mine, theirs in zip(ours, found["results"][f"{name} prompts"]["prompts"], strict=True):
            assert same_prompt(case, mine, theirs), (name, mine, theirs)


@both
def test_frozen_verdicts_are_still_those_of_lm_eval(frozen: dict[str, Any]) -> None:
    again = json.loads(json.dumps(freeze(str(PYTHON))))
    assert again["version"] == frozen["version"]
    for name, own in frozen["cases"].items():
        assert again["cases"][name] == own, name
