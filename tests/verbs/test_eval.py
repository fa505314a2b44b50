"""`smelt eval`: a recipe, or models and benchmarks on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from smelt.core import digest
from smelt.core.errors import UserError
from smelt.data.document import write_jsonl
from smelt.verbs.eval import check, eval, execute
from tests.pico import pico_llama
from tests.train.rows import pair


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("eval")
    pico_llama(home / "a")
    pico_llama(home / "b", seed=1, kind="sentencepiece_bpe")
    rows = []
    for n in range(5):
        one = pair(f"{n}+1=", f"{n + 1}.", "math" if n < 3 else "logic")
        one.meta.update({"answer": str(n + 1), "verifier": "expression"})
        rows.append(one)
    write_jsonl(home / "test.jsonl", rows)
    (home / "text.txt").write_text("The quick brown fox.\n\ndef add(a, b):\n")
    return home


def recipe(**changes: Any) -> dict[str, Any]:
    return {
        "models": {"first": "a", "second": "b"},
        "benchmarks": [{"name": "chains", "data": "test.jsonl"}],
        "text": {"prose": "text.txt"},
        "groups": {"both": ["math", "logic"]},
        "roles": {"first": "base"},
        **changes,
    }


def test_a_recipe_end_to_end(home: Path) -> None:
    for out in ("one", "two"):
        execute(recipe(), home / out, where="r")
    assert digest.files(home / "one") == digest.files(home / "two")
    record = json.loads((home / "one/run.json").read_text())
    assert {m: {g: c["total"] for g, c in s.items()} for m, s in record["scores"].items()} == {
        "first": {"logic": 2, "math": 3}, "second": {"logic": 2, "math": 3},
    }  # fmt: skip
    assert record["majority"] == {"logic": 0.5, "math": 0.3333}
    assert (record["groups"], record["roles"]) == ({"both": ["math", "logic"]}, {"first": "base"})
    for model in ("first", "second"):
        assert record["likelihood"][model]["prose"]["bits_per_byte"] > 0
        for group, cell in record["scores"][model].items():
            lines = (home / f"one/samples/{model}/{group}.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            assert len(rows) == cell["total"]
            assert sum(row["correct"] for row in rows) == cell["correct"]
            unread = ("no_stop", "unparsable", "empty")
            assert sum(row["reason"] in unread for row in rows) == cell["unparsed"]
            assert cell["low"] <= cell["accuracy"] <= cell["high"]


def test_the_command_line_says_the_same(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute(recipe(groups={}, roles={}), home / "one", where="r")
    eval(["first=a", "second=b"], benchmark=["chains=test.jsonl"], text=["prose=text.txt"],
         out_option=Path("two"))  # fmt: skip
    one, two = (json.loads((home / n / "run.json").read_text()) for n in ("one", "two"))
    assert (one["scores"], one["likelihood"]) == (two["scores"], two["likelihood"])
    printed = capsys.readouterr().out
    assert "first" in printed
    assert "bits per byte" in printed
    eval(["a"], benchmark=["chains=test.jsonl"], limit=1, out_option=Path("three"))
    scores = json.loads((home / "three/run.json").read_text())["scores"]
    assert {name: cell["total"] for name, cell in scores["a"].items()} == {"logic": 1, "math": 1}


def test_check_counts_what_would_be_asked(home: Path) -> None:
    assert check(recipe(), where="r") == [
        "chains: logic, 2 items", "chains: math, 3 items", "text prose: 2 texts", "2 models",
    ]  # fmt: skip


CHAINS = {"name": "chains", "data": "test.jsonl"}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"benchmarks": [], "text": {}}, "nothing to measure"),
    ({"models": {}}, "r: models"),
    ({"models": {"a/b": "a"}, "roles": {}}, "models.a/b: no plain name"),
    ({"models": {"x": "nowhere"}, "roles": {}}, "nowhere: no such folder"),
    ({"benchmarks": [{**CHAINS, "name": "chain"}]}, "benchmark 'chain': no such plug-in"),
    ({"benchmarks": [{**CHAINS, "data": "no.jsonl"}]}, r"benchmarks\[0\]: no such file: no.jsonl"),
    ({"benchmarks": [CHAINS, CHAINS]}, r"benchmarks\[1\]: 'logic' stands twice"),
    ({"benchmarks": [{**CHAINS, "only": ["x"]}]}, "only: 'x', not in test.jsonl"),
    ({"groups": {"g": ["x"]}}, "groups.g: unknown row 'x'"),
    ({"roles": {"x": "base"}}, "roles.x: no such model"),
    ({"roles": {"first": "king"}}, "roles.first: found 'king'"),
    ({"text": {"x": "no.txt"}}, "no such file: no.txt"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_recipes(home: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        execute(recipe(**changes), home / "out", where="r")
    assert not (home / "out").exists()


def test_bad_commands(home: Path) -> None:
    with pytest.raises(UserError, match="two models of one name"):
        eval(["a", "./a"], benchmark=["chains=test.jsonl"], out_option=Path("o"))
    with pytest.raises(UserError, match=r"prose: no '='. Expected NAME=FILE"):
        eval(["a"], text=["prose"], out_option=Path("o"))
    with pytest.raises(UserError, match="no data of chains"):
        eval(["a"], benchmark=["chains"], out_option=Path("o"))
    with pytest.raises(UserError, match="a recipe and other arguments"):
        eval(["a"], recipe="r.yaml", out_option=Path("o"))


def test_a_model_that_cannot_be_asked_is_found_before_any_is_scored(home: Path) -> None:
    path = home / "b/config.json"
    config = json.loads(path.read_text())
    for changes, message in (
        (
            {"max_position_embeddings": 46},
            r"models.second, benchmarks\[0\]: no question of chains fits .* more than 46",
        ),
        ({"vocab_size": 100}, r"models.second: tokenizer .* the model 100 rows"),
    ):
        path.write_text(json.dumps(config | changes))
        with pytest.raises(UserError, match=message):
            check(recipe(), where="r")


def test_a_hub_name_is_an_input_by_its_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smelt.checkpoint.reader._from_hub", lambda name, revision: home / "a")
    models = {"first": "org/model"}
    execute(recipe(models=models, roles={}, text={}), home / "one", where="r")
    execute(recipe(models={"first": "a"}, roles={}, text={}), home / "two", where="r")
    one, two = (json.loads((home / n / "run.json").read_text()) for n in ("one", "two"))
    assert one["scores"] == two["scores"]
    assert one["inputs"]["models.first"] == two["inputs"]["models.first"]
