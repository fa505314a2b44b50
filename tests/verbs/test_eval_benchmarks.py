"""`smelt eval` on several benchmarks at once: forms, samples, pairs, the cache, kills, programs."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from smelt.core import digest
from smelt.core.errors import UserError
from smelt.core.run import read_record
from smelt.evals.by_config import describe_by_config
from smelt.models.network import NetworkBackend
from smelt.verbs.eval import check, eval, execute
from tests.pico import pico_llama

SUMS = [{"id": str(n), "question": f"Ann has {n} nuts and finds 4. How many?", "answer": str(n + 4),
         "solution": f"{n}+4={n + 4}"} for n in range(6)]  # fmt: skip
ARC = [{"id": str(n), "question": f"What is {n}?", "choices": ["a dog", "a cat", "a number"],
        "answer": "C", "answer_index": 2} for n in range(4)]  # fmt: skip
CODE = [{"id": "HumanEval/0", "question": 'def inc(n: int) -> int:\n    """n plus one"""\n',
         "entry_point": "inc", "solution": "    return n + 1\n", "answer": "    return n + 1\n",
         "tests": "def check(candidate):\n    assert candidate(1) == 2\n"}]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("eval")
    for seed, name in enumerate("ab"):
        pico_llama(home / name, seed=seed, context=1024)
    write(home / "data/gsm8k/test.jsonl.gz", SUMS[:4])
    write(home / "data/gsm8k/train.jsonl.gz", SUMS[4:])
    write(home / "data/arc_challenge/test.jsonl.gz", ARC)
    write(home / "data/arc_challenge/train.jsonl.gz", [{**ARC[0], "question": "What is 9?"}])
    write(home / "data/humaneval/test.jsonl.gz", CODE)
    return home


def recipe(*benchmarks: str, **changes: Any) -> dict[str, Any]:
    entries = [{"name": name, "data": "data"} for name in benchmarks]
    return {"models": {"one": "a", "two": "b"}, "benchmarks": entries, "max_new_tokens": 12,
            **changes}  # fmt: skip


def test_benchmarks_of_three_kinds_in_one_run(home: Path) -> None:
    data = recipe("gsm8k", "arc_challenge", "humaneval", compare=[["one", "two"]])
    execute(data, home / "out", where="r")
    facts = read_record(home / "out")
    for cells in facts["scores"].values():
        assert {name: cell["total"] for name, cell in cells.items()} == {
            "gsm8k": 4, "arc_challenge": 4, "humaneval": 1,
        }  # fmt: skip
        assert cells["gsm8k"]["form"] == "base"
        assert cells["gsm8k"]["shots"] == 2  # all that there are
        assert cells["gsm8k"]["rules"].keys() >= {"strict-match", "flexible-extract"}
        assert cells["arc_challenge"]["rules"]
        assert cells["humaneval"]["isolation"]
        assert sum(cells["gsm8k"]["reasons"].values()) == 4
    compared = {row["benchmark"] for row in facts["comparisons"]}
    assert compared == {"gsm8k", "arc_challenge", "humaneval"}
    assert str(home) not in (home / "out/run.json").read_text()


def test_answers_are_kept_by_content(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_, asked = NetworkBackend.write, 0

    def counted(self: Any, requests: Any, done: Any, label: str) -> None:
        nonlocal asked
        asked += len(requests)
        write_(self, requests, done, label)

    monkeypatch.setattr(NetworkBackend, "write", counted)
    execute(recipe("gsm8k"), home / "first", where="r")
    assert asked == 8
    execute(recipe("gsm8k"), home / "second", where="r")
    assert asked == 8
    assert digest.files(home / "first") == digest.files(home / "second")
    execute(recipe("gsm8k", cache=False), home / "third", where="r")
    assert asked == 16
    assert not list(home.glob("third*/answers*"))
    execute(recipe("gsm8k", max_new_tokens=5), home / "fourth", where="r")
    assert asked == 24


def test_a_killed_run_asks_only_for_what_it_lacks(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(recipe("gsm8k", batch_size=2, cache=False), home / "whole", where="r")
    write_, batches = NetworkBackend.write, 0

    def dying(self: Any, requests: Any, done: Any, label: str) -> None:
        def one(indices: list[int], texts: Any) -> None:
            nonlocal batches
            batches += 1
            done(indices, texts)
            if batches == 3:
                raise KeyboardInterrupt

        write_(self, requests, one, label)

    monkeypatch.setattr(NetworkBackend, "write", dying)
    again = recipe("gsm8k", batch_size=2, cache=False)
    with pytest.raises(KeyboardInterrupt):
        execute(again, home / "cut", where="r")
    assert not (home / "cut").exists()
    execute(again, home / "cut", where="r")
    assert batches == 4  # two models, two batches each; none was asked twice
    assert digest.files(home / "whole") == digest.files(home / "cut")


def test_samples_and_pass_at(home: Path) -> None:
    data = recipe("gsm8k", samples=3, pass_at=[1, 3], temperature=1.0)
    execute(data, home / "out", where="r", seed=1)
    cell = read_record(home / "out")["scores"]["one"]["gsm8k"]
    assert set(cell["pass_at"]) == {"1", "3"}
    rows = [json.loads(line) for line in
            (home / "out/samples/one/gsm8k.jsonl").read_text().splitlines()]  # fmt: skip
    assert [row["sample"] for row in rows] == [0, 1, 2] * 4
    assert len({row["answer"] for row in rows}) > 4
    execute(data, home / "other", where="r", seed=2)
    assert (home / "other/samples/one/gsm8k.jsonl").read_bytes() != (
        home / "out/samples/one/gsm8k.jsonl"
    ).read_bytes()


def test_other_examples_are_another_eval(home: Path) -> None:
    execute(recipe("gsm8k", "humaneval"), home / "out", where="r")
    inputs = read_record(home / "out")["inputs"]
    assert {"benchmarks.0", "benchmarks.1", "benchmarks.0.shots"} <= set(inputs)
    assert "benchmarks.1.shots" not in inputs
    write(home / "data/gsm8k/train.jsonl.gz", SUMS[:2])
    with pytest.raises(UserError, match="out"):
        execute(recipe("gsm8k", "humaneval"), home / "out", where="r")


def test_what_the_terminal_shows(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "eval.yaml"
    drawn = {"samples": 2, "temperature": 1.0, "pass_at": [2]}
    data = recipe("gsm8k", "arc_challenge", compare=[["one", "two"]], **drawn)
    path.write_text(json.dumps(data))
    eval(recipe=str(path), out_option=home / "out", seed=3)
    shown = capsys.readouterr().out
    facts = read_record(home / "out")
    assert facts["seed"] == 3
    assert "pass_at" not in facts["scores"]["one"]["arc_challenge"]
    assert shown.count("one -> two") == 2
    for text in ("pass@2", "/4 = ", "cut", "samples"):
        assert text in shown
    with pytest.raises(UserError, match="a recipe and other arguments"):
        eval(recipe=str(path), limit=0, out_option=home / "o")


def test_costs_by_configuration_alone(home: Path) -> None:
    whole = describe_by_config(recipe("mmlu"), "r")
    drawn = describe_by_config(recipe("gsm8k", samples=4, temperature=1.0), "r")
    assert "2 models x 14042 items" in whole[-1]
    assert f"2 models x {4 * 1319} items" in drawn[-1]
    for entry, message in (
        ({"name": "chains"}, "chains: no number of items known"),
        ({"name": "gsm8k", "split": "tset"}, "one of: train, test"),
        ({"name": "chains", "form": "chat", "split": "x"}, "chains"),
    ):
        with pytest.raises(UserError, match=message):
            describe_by_config(recipe(benchmarks=[entry]), "r")


def test_devices_and_servers_are_looked_at_before_any_work(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--device: 'gpu9' cannot be used"):
        execute(recipe("gsm8k"), home / "out", where="r", device="gpu9")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    models = {"one": "a", "two": {"model": "m", "backend": "openai"}}
    with pytest.raises(UserError, match="OPENAI_API_KEY: not set"):
        execute(recipe("gsm8k", models=models), home / "out", where="r")
    served = {"model": "m", "backend": "openai", "options": {"url": "http://localhost:1/v1"}}
    with pytest.raises(UserError, match="'meta', which openai does not take"):
        execute(recipe("gsm8k", models={"x": served}), home / "out", where="r", device="meta")
    data = recipe(models={"one": "a", "x": served})
    data["benchmarks"] = [{"name": "gsm8k", "data": "data", "shots": 2}]
    with pytest.raises(UserError, match="shots: 2 in the chat form"):
        execute(data, home / "out", where="r")
    assert not (home / "out").exists()


def test_combined_skills_are_compared_with_the_best_expert(home: Path) -> None:
    for name in ("math", "logic", "ml"):
        write(home / f"data/{name}.jsonl.gz", [
            {"text": f"{n}+1={n + 1}.", "prompt": f"{n}+1=", "id": f"{name}{n}", "domain": name,
             "source": "s", "meta": {"answer": str(n + 1), "verifier": "expression"}}
            for n in range(4)
        ])  # fmt: skip
    data = recipe(combined={"ml": ["math", "logic"]}, roles={"one": "expert", "two": "merge"})
    data["benchmarks"] = [{"name": "chains", "data": f"data/{name}.jsonl.gz"}
                          for name in ("math", "logic", "ml")]  # fmt: skip
    execute(data, home / "out", where="r")
    (row,) = read_record(home / "out")["combined"]
    assert (row["model"], row["pair"], row["best_expert"]) == ("two", "ml", "one")
    assert row["low"] <= row["gain"] <= row["high"]


LM = [{"name": "lm_eval/arc_easy"}]
BAD = [
    ({"benchmarks": LM}, "max_new_tokens: does not reach lm_eval/TASK"),
    ({"benchmarks": LM, "max_new_tokens": None, "temperature": 1.0}, "r: temperature: does not"),
    ({"samples": 2}, "samples: 2 samples, which at temperature 0 are all the same"),
    ({"samples": 2, "temperature": 1.0, "pass_at": [3]}, "pass_at: found 3. Expected at most 2"),
    ({"compare": [["one", "x"]]}, "compare: no such model 'x'"),
    ({"combined": {"x": ["gsm8k", "gsm8k"]}}, "combined.x: unknown row 'x'"),
    ({"benchmarks": [{"name": "gsm8k", "data": "data", "form": "chat"}]}, "form: base"),
    ({"benchmarks": [{"name": "gsm8k", "data": "data", "form": "rap"}]}, "form: found 'rap'"),
    ({"benchmarks": [{"name": "gsm8k", "data": "nowhere"}]}, "smelt fetch gsm8k --out nowhere"),
    ({"benchmarks": [{"name": "bbh"}]}, "smelt fetch bbh"),
    ({"benchmarks": [{"name": "gsm8k", "data": "data", "options": {"x": 1}}]}, "options of gsm8k"),
    ({"models": {"x": {"model": "a", "backend": "vlm"}}}, "backend 'vlm': no such plug-in"),
    ({"models": {"x": {"model": "a", "options": {"dtyp": 1}}}}, "models.x.options.dtyp"),
    ({"models": {"x": "no.gguf"}}, "no such file: no.gguf"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_recipes(home: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        execute(recipe("gsm8k", **changes), home / "out", where="r")
    assert not (home / "out").exists()


def test_check_tells_what_would_be_asked(home: Path) -> None:
    assert check(recipe("gsm8k", "arc_challenge"), where="r") == [
        "gsm8k: gsm8k, 4 items", "arc_challenge: arc_challenge, 4 items", "2 models",
    ]  # fmt: skip
