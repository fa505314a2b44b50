"""`smelt search` on benchmarks, with several objectives, in stages, with races and workers."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from smelt.core import digest, registry
from smelt.core.errors import UserError
from smelt.core.run import read_record
from smelt.data.document import write_jsonl
from smelt.evals.benchmark import Item
from smelt.evals.candidates import prepare_sides
from smelt.evals.exam import Exam
from smelt.evals.fitness import refuse_test_items
from smelt.evals.recipe import BenchmarkEntry
from smelt.verbs import merge
from smelt.verbs.search import check, execute
from tests.merge.conftest import finetune
from tests.pico import pico_llama
from tests.train.rows import SUMS, pair


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("search")
    pico_llama(home / "base", layers=3)
    finetune(home / "base", home / "math", 1)
    finetune(home / "base", home / "code", 2)
    for split, part in (("fitness", SUMS[:8]), ("test", SUMS[8:14])):
        rows = [pair(*one, domain="sum") for one in part]
        for row in rows:
            answer = row.text[len(row.prompt) :].rstrip(".").rpartition("=")[2]
            row.meta.update({"answer": answer, "verifier": "expression"})
        write_jsonl(home / f"{split}.jsonl", rows)
    return home


def recipe(**search: Any) -> dict[str, Any]:
    given = {"fitness": {"data": "fitness.jsonl", "domains": {"sum": 1.0},
                         "measure": "likelihood"}, "evaluations": 12}  # fmt: skip
    return {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "math"}, {"model": "code"}],
        "parameters": {"weight": {"search": [0.0, 1.5]}, "density": {"search": [0.1, 1.0]}},
        "search": {**given, **search},
    }


ROWS = {"data": "fitness.jsonl", "domains": {"sum": 1.0}}
BENCHMARKS = {"benchmarks": {"chains": 1.0}, "folder": ".", "max_new_tokens": 6}


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def test_a_benchmark_is_asked_on_its_fitness_split_and_shown_on_its_test_split(home: Path) -> None:
    data = recipe(fitness=BENCHMARKS, evaluations=5)
    assert check(data, where="r")[1] == "each scored on 8 items of chains (score)"
    execute(data, home / "out", where="r")
    facts = read_record(home / "out")
    assert facts["fitness"]["split"].endswith("/fitness.jsonl")
    assert set(facts["inputs"]) >= {"fitness.chains", "test.chains"}
    (row,) = facts["honesty"]["rows"]
    assert set(row) == {"name", "start_fitness", "best_fitness", "start_test", "best_test"}
    (home / "fitness.jsonl").write_text((home / "test.jsonl").read_text())
    with pytest.raises(UserError, match=r"also stands in test.jsonl"):
        execute(data, home / "cheat", where="r")
    # Without a test split beside it, that of `smelt fetch` is looked at.
    (home / ".cache/smelt/data/chains").mkdir(parents=True)
    (home / "test.jsonl").rename(home / ".cache/smelt/data/chains/test.jsonl")
    with pytest.raises(UserError, match=r"also stands in .*chains/test.jsonl"):
        prepare_sides(data, "r")
    (home / "fitness.jsonl").unlink()
    (home / "fitness.jsonl").symlink_to(home / ".cache/smelt/data/chains/test.jsonl")
    with pytest.raises(UserError, match="leads to a test split"):
        prepare_sides(data, "r")


def test_as_many_items_of_the_test_split(home: Path) -> None:
    fitness = {**BENCHMARKS, "limit": 4}
    sides = prepare_sides(recipe(fitness=fitness), "r")
    assert [len(exam.items) for exam in (*sides.fitness, *sides.test)] == [4, 4]
    # The fifth item of the test is not shown, and guarded all the same.
    rows = (home / "test.jsonl").read_text().splitlines(keepends=True)
    (home / "fitness.jsonl").write_text(rows[5])
    with pytest.raises(UserError, match=r"also stands in test.jsonl"):
        prepare_sides(recipe(fitness=fitness), "r")


def test_a_question_with_other_choices_is_another() -> None:
    def exam(choices: tuple[str, ...]) -> Exam:
        benchmark = registry.load("benchmark", "arc_challenge")
        item = Item("1", "arc_challenge", "Which is an opinion?", "A", choices=choices)
        return Exam(BenchmarkEntry(name="arc_challenge"), benchmark, Path("x"), [item], [])

    refuse_test_items(exam(("cats", "dogs")), exam(("cats", "cows")), "r")
    with pytest.raises(UserError, match="also stands"):
        refuse_test_items(exam(("cats", "dogs")), exam(("Dogs", "cats")), "r")


def test_a_benchmark_without_a_fitness_split_is_refused(home: Path) -> None:
    with pytest.raises(UserError, match=r"benchmarks.humaneval: a benchmark with a test split"):
        execute(recipe(fitness={"benchmarks": {"humaneval": 1.0}}), home / "out", where="r")


def test_a_front_of_score_and_size(home: Path) -> None:
    data = recipe(algorithm="nsga2", objectives=["score", "size"], evaluations=24,
                  options={"population": 8})  # fmt: skip
    execute(data, home / "out", where="r")
    facts = read_record(home / "out")
    assert facts["objectives"] == ["score", "size"]
    rows = {row["candidate"]: row for row in journal(home / "out")}
    front = [tuple(one["objectives"]) for one in facts["front"]]
    everyone = [tuple(row["objectives"]) for row in rows.values()]
    for one in front:
        assert not any(a >= one[0] and b >= one[1] and (a, b) != one for a, b in everyone)
        assert -1.0 <= one[1] <= 0.0
    sizes = {one[1] for one in everyone}
    assert len(sizes) > 4  # a lower density changes fewer parameters
    member = facts["front"][0]["candidate"]
    best = yaml.safe_load((home / f"out/front/{member}.yaml").read_text())
    merge.execute(best, home / "member", where="m")
    assert (home / "member/model.safetensors").is_file()


def test_length_is_an_objective_of_written_answers_only(home: Path) -> None:
    data = recipe(fitness=BENCHMARKS, objectives=["score", "length"], algorithm="random_search",
                  evaluations=4)  # fmt: skip
    execute(data, home / "out", where="r")
    lengths = [row["objectives"][1] for row in journal(home / "out")]
    assert all(-6 <= length <= 0 for length in lengths)
    assert any(length < 0 for length in lengths)
    with pytest.raises(UserError, match=r"objectives: length, and rows that nobody answers"):
        execute(recipe(objectives=["score", "length"]), home / "no", where="r")


def test_stages_start_at_the_best_of_the_one_before(home: Path) -> None:
    data = recipe(layer_groups=[1, "all"], evaluations=[10, 12])
    execute(data, home / "out", where="r")
    rows = journal(home / "out")
    first = [row for row in rows if row["stage"] == 0]
    second = [row for row in rows if row["stage"] == 1]
    assert second[0]["fitness"] == pytest.approx(max(row["fitness"] for row in first), abs=1e-6)
    assert len(second[0]["genome"]) == 4 * len(first[0]["genome"])
    facts = read_record(home / "out")
    assert facts["fitness"]["evaluations"] == len(rows)
    assert facts["fitness"]["best"] == max(row["fitness"] for row in rows)
    best = yaml.safe_load((home / "out/best.yaml").read_text())
    merge.execute(best, home / "again", where="b")
    one, other = (digest.file(home / n / "model.safetensors") for n in ("out", "again"))
    assert one == other


def test_a_race_measures_less_and_its_best_on_everything(home: Path) -> None:
    plain = recipe(evaluations=30)
    raced = recipe(evaluations=30, racing={"first": 0.25})
    for name, data in (("plain", plain), ("raced", raced)):
        execute(data, home / name, where="r")
    items = {name: read_record(home / name)["fitness"]["items"] for name in ("plain", "raced")}
    assert items["plain"] == 8 * read_record(home / "plain")["fitness"]["evaluations"]
    assert items["raced"] < 0.8 * items["plain"]
    best = read_record(home / "raced")["fitness"]["best"]
    assert best in [row["fitness"] for row in journal(home / "raced") if row["items"] == 8]


BAD = [
    ({"fitness": {"domains": {"sum": 1.0}}}, "neither data nor benchmarks"),
    ({"fitness": {"data": "fitness.jsonl", **BENCHMARKS}}, "data and benchmarks"),
    ({"fitness": {"data": "fitness.jsonl"}}, "fitness.domains: no domain"),
    ({"fitness": {**BENCHMARKS, "measure": "exact"}}, "fitness.measure: found 'exact'"),
    ({"objectives": ["score", "score"]}, "objectives: one of them twice"),
    ({"objectives": ["score", "size"]}, "one objective"),
    ({"objectives": ["score", "size"], "algorithm": "nsga2", "racing": {}}, "several objectives"),
    ({"layer_groups": [1, 3], "evaluations": [5]}, "1 of them for 2 stages"),
    ({"layer_groups": []}, "layer_groups"),
    ({"workers": 0}, "workers: found 0"),
    ({"fitness": {**ROWS, "test": "no.jsonl"}}, "test: no such file: no.jsonl"),
    ({"fitness": {**BENCHMARKS, "test": "test.jsonl"}}, "fitness.test: a key that goes with data"),
    ({"fitness": {**BENCHMARKS, "domains": {"sum": 1.0}}}, "fitness.domains: a key that goes"),
    ({"fitness": {**ROWS, "max_new_tokens": 6}}, "max_new_tokens: a key that goes with benchm"),
    ({"fitness": {**ROWS, "batch_size": 6}}, "batch_size: a key that goes with benchmarks"),
]


@pytest.mark.parametrize(("search", "message"), BAD)
def test_settings_that_do_not_go_together(home: Path, search: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        execute(recipe(**search), home / "out", where="r")
    assert not (home / "out").exists()


def test_a_size_needs_a_base(home: Path) -> None:
    data = recipe(objectives=["score", "size"], algorithm="nsga2") | {"merge_method": "linear"}
    data["parameters"] = {"weight": "search"}
    del data["base_model"]
    with pytest.raises(UserError, match="size, and linear, which changes no base"):
        execute(data, home / "out", where="r")
