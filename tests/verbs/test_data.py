"""`smelt data` from recipe to files: determinism, disjoint splits, counts, errors, kills."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from smelt.core import digest
from smelt.core.errors import UserError
from smelt.data.decontaminate import tokens
from smelt.data.document import Document, normalize, read_jsonl
from smelt.verbs import data as verb
from smelt.verbs._options import read_recipe
from smelt.verify.expression import verify_chain

RECIPE: dict[str, Any] = {
    "sources": [
        {"name": "composed", "tasks": ["math", "lc"], "count": 200},
        {"name": "python_prose", "max_documents": 80},
        {"name": "composed", "tasks": ["lc"], "count": 20, "operators": [4], "domain": "lc_long",
         "split": "fitness"},
    ],
    "filters": [{"name": "min_length", "min_chars": 30, "only": ["python_prose"]}],
    "near_dedup": {"threshold": 0.7},
    "splits": {"fitness": 0.15, "test": 0.15, "max_per_domain": 25},
}  # fmt: skip


def execute(out: Path, recipe: dict[str, Any] | None = None, seed: int = 0) -> dict[str, Any]:
    verb.execute(copy.deepcopy(recipe or RECIPE), out, where="test.yaml", seed=seed)
    record: dict[str, Any] = json.loads((out / "run.json").read_text())
    return record


def rows(out: Path, split: str) -> list[Document]:
    return list(read_jsonl(out / f"{split}.jsonl"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "out"
    execute(out)
    return out


def test_splits_are_disjoint(made: Path) -> None:
    parts = {split: rows(made, split) for split in ("train", "fitness", "test")}
    keys = {s: {normalize(d.prompt or d.text) for d in docs} for s, docs in parts.items()}
    assert all(keys.values())
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["fitness"]
    assert not keys["fitness"] & keys["test"]
    assert len({d.id for docs in parts.values() for d in docs}) == sum(map(len, parts.values()))


def test_every_chain_is_right(made: Path) -> None:
    chains = [d for s in ("train", "fitness", "test") for d in rows(made, s) if d.meta.get("task")]
    assert len(chains) > 300
    for doc in chains:
        assert verify_chain(doc.prompt, doc.text[len(doc.prompt) :]) == (True, "right")


def test_train_has_no_ngram_of_held_out_prompts(made: Path) -> None:
    """Written out the slow way: every 10-token window of held-out prompts against train texts."""
    windows = set()
    for split in ("fitness", "test"):
        for doc in rows(made, split):
            words = tokens(doc.prompt or doc.text)
            windows |= {tuple(words[i : i + 10]) for i in range(len(words) - 9)}
    for doc in rows(made, "train"):
        words = tokens(doc.text)
        assert not any(tuple(words[i : i + 10]) in windows for i in range(len(words) - 9))


def test_demanded_split_and_caps(made: Path) -> None:
    fitness = rows(made, "fitness")
    assert sum(d.domain == "lc_long" for d in fitness) == 20
    assert not [d for s in ("train", "test") for d in rows(made, s) if d.domain == "lc_long"]
    for split in ("fitness", "test"):
        for domain in ("math", "lc", "prose"):
            assert sum(d.domain == domain for d in rows(made, split)) <= 25


def test_counts_add_up(made: Path) -> None:
    record = json.loads((made / "run.json").read_text())
    steps = {step["step"]: step for step in record["steps"]}
    assert list(steps) == ["source:composed", "source:python_prose", "filter:min_length",
                           "exact_dedup", "near_dedup", "split", "decontaminate"]  # fmt: skip
    for step in steps.values():
        assert step["seen"] == step["kept"] + sum(step["dropped"].values())
    assert steps["source:composed"]["kept"] == 420
    assert steps["filter:min_length"]["seen"] == steps["source:python_prose"]["kept"] == 80
    assert steps["exact_dedup"]["seen"] == 420 + steps["filter:min_length"]["kept"]
    assert steps["near_dedup"]["seen"] == steps["exact_dedup"]["kept"]
    assert steps["split"]["seen"] == steps["near_dedup"]["kept"]
    for split, domains in record["splits"].items():
        found = rows(made, split)
        assert domains == {d: sum(x.domain == d for x in found) for d in domains}
        assert sum(domains.values()) == len(found)
    assert steps["decontaminate"]["kept"] == sum(record["splits"]["train"].values())
    dropped = {reason for step in steps.values() for reason in step["dropped"]}
    assert dropped == set(record["examples_dropped"])
    assert all(1 <= len(examples) <= 3 for examples in record["examples_dropped"].values())


def test_same_seed_same_bytes_and_no_absolute_path(made: Path, tmp_path: Path) -> None:
    execute(tmp_path / "again")
    assert digest.files(made) == digest.files(tmp_path / "again")
    assert str(tmp_path) not in (tmp_path / "again" / "run.json").read_text()
    before = (tmp_path / "again" / "cost.json").read_bytes()
    execute(tmp_path / "again")  # done: nothing is made again
    assert (tmp_path / "again" / "cost.json").read_bytes() == before


def test_other_seed_other_rows(made: Path, tmp_path: Path) -> None:
    execute(tmp_path / "other", seed=1)
    first, second = ({d.id for d in rows(o, "train")} for o in (made, tmp_path / "other"))
    assert len(first & second) < 0.2 * len(first)
    # Splits go by content, so not even two runs leak into each other's test.
    train = {normalize(d.prompt) for d in rows(made, "train") if d.prompt}
    test = {normalize(d.prompt) for d in rows(tmp_path / "other", "test") if d.prompt}
    assert not train & test


def test_benchmark_file_is_removed_from_train(made: Path, tmp_path: Path) -> None:
    plain = next(d for d in rows(made, "train") if len(tokens(d.text)) > 30 and not d.prompt)
    chain = next(d for d in rows(made, "train") if d.prompt and len(tokens(d.prompt)) < 10)
    bench = tmp_path / "bench.jsonl"
    lines = [{"q": " ".join(plain.text.split()[3:25]), "id": 1}, {"q": chain.prompt}]
    bench.write_text("".join(json.dumps(line) + "\n" for line in lines))
    second = tmp_path / "other" / "bench.jsonl"
    second.parent.mkdir()
    gone = next(d for d in rows(made, "train") if d.prompt and d.prompt != chain.prompt)
    second.write_text(json.dumps({"q": gone.prompt}) + "\n")
    recipe = RECIPE | {"decontaminate": {"against": [str(bench), str(second)], "fields": ["q"]}}
    record = execute(tmp_path / "out", recipe)
    left = {d.id for d in rows(tmp_path / "out", "train")}
    assert plain.id not in left
    assert chain.id not in left
    step = next(s for s in record["steps"] if s["step"] == "decontaminate")
    assert step["dropped"]["overlaps_bench.jsonl"] >= 2
    hits = [h for h in record["contamination"] if h["benchmark"] == "bench.jsonl"]
    assert {plain.id, chain.id} <= {h["id"] for h in hits}
    assert step["dropped"]["overlaps_bench.jsonl#2"] == 1
    assert record["inputs"]["decontaminate[0]"]["sha256"] == digest.file(bench)
    assert record["recipe"]["decontaminate"]["against"] == ["bench.jsonl", "other/bench.jsonl"]


def test_tokenizers_are_trained_on_train(tmp_path: Path) -> None:
    recipe = RECIPE | {"tokenizers": {"small": {"kind": "byte_bpe", "vocab_size": 400}}}
    execute(tmp_path / "a", recipe)
    assert (tmp_path / "a" / "tokenizers" / "small" / "tokenizer.json").is_file()
    execute(tmp_path / "b", recipe)
    assert digest.files(tmp_path / "a") == digest.files(tmp_path / "b")


def test_installed_versions_are_part_of_the_identity(made: Path, tmp_path: Path) -> None:
    assert set(json.loads((made / "run.json").read_text())["recipe"]["installed"]) == {
        "minhash",
        "python",
    }
    gym = {"name": "reasoning_gym", "tasks": ["chain_sum"], "count": 40}
    record = execute(tmp_path / "out", {"sources": [gym]})
    assert set(record["recipe"]["installed"]) == {"python", "reasoning-gym"}
    composed = {"name": "composed", "tasks": ["math"], "count": 60}
    record = execute(tmp_path / "plain", {"sources": [composed]})
    assert record["recipe"]["installed"] == {}


def change(path: str, value: Any) -> dict[str, Any]:
    recipe = copy.deepcopy(RECIPE)
    target: Any = recipe
    *keys, last = path.split(".")
    for key in keys:
        target = target[int(key)] if key.isdigit() else target[key]
    target[int(last) if last.isdigit() else last] = value
    return recipe


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sources", [], r"test.yaml: sources"),
        ("sources", "composed", r"test.yaml: sources"),
        ("sources", [None], r"sources\[0\]"),
        ("sources", [{"name": "composed", 3: 4}], r"sources\[0\]"),
        ("sources", [{"name": 3}], r"sources\[0\].name: found 3"),
        ("sorces", [], r"test.yaml: sorces: unknown key. Expected 'sources'"),
        ("sources.0.name", "compsed", r"source 'compsed'.*'composed'"),
        ("sources.0.cuont", 3, r"sources\[0\].cuont: unknown key. Expected 'count'"),
        ("sources.0.count", "many", r"sources\[0\].count: found 'many'"),
        ("sources.0.tasks", ["maths"], r"sources\[0\].tasks: found \['maths'\]"),
        ("sources.0.seed", 3, r"sources\[0\].seed: unknown key"),
        ("sources.0.split", "validation", r"sources\[0\].split"),
        ("sources.2", {"name": "jsonl"}, r"sources\[2\]: missing key 'path'"),
        ("sources.2", {"name": "jsonl", "path": "/no/such"}, r"no such file: /no/such"),
        ("sources.1.packages", ["no-such-package"], r"'no-such-package' is not installed"),
        ("filters.0.name", "min_lenght", r"filter 'min_lenght'.*'min_length'"),
        ("filters.0.min_chars", "x", r"filters\[0\].min_chars: found 'x'"),
        ("filters.0.only", ["prose"], r"filters\[0\].only: no source 'prose' here"),
        ("near_dedup.threshold", 1.5, r"near_dedup.threshold: found 1.5"),
        ("splits.test", 0.9, r"splits: nothing left for train"),
        ("decontaminate", {"against": ["/no/such"]}, r"no such file: /no/such"),
        ("tokenizers", {"x": {"kind": "byte_bpe", "vocab_size": 20}}, r"tokenizers.x.vocab_size"),
        ("tokenizers", {"../x": {"kind": "byte_bpe", "vocab_size": 400}}, r"not a folder name"),
    ],
)
def test_bad_recipes_name_the_key_before_work(
    path: str, value: Any, message: str, tmp_path: Path
) -> None:
    recipe = change(path, value)
    for attempt in (
        lambda: verb.check(recipe, where="test.yaml"),
        lambda: verb.execute(recipe, tmp_path / "out", where="test.yaml"),
    ):
        with pytest.raises(UserError, match=message):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_empty_data_set_says_what_dropped_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "short"}\nbroken\n')
    recipe = {
        "sources": [{"name": "jsonl", "path": str(path)}],
        "filters": [{"name": "min_length"}],
    }
    with pytest.raises(UserError, match=r"no row left for train .*malformed_json 1, too_short 1"):
        execute(tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()


def test_empty_held_out_split_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one document"}\n')
    recipe: dict[str, Any] = {"sources": [{"name": "jsonl", "path": str(path)}]}
    recipe["splits"] = {"fitness": 0.0001, "test": 0}
    with pytest.raises(UserError, match="no row left for fitness"):
        execute(tmp_path / "out", recipe)
    recipe["splits"] = {"fitness": 0, "test": 0}
    assert execute(tmp_path / "out", recipe)["splits"]["train"] == {"text": 1}


def test_check_tells_the_plan() -> None:
    lines = verb.check(RECIPE, where="test.yaml")
    assert any("composed" in line and "at most 400 rows" in line for line in lines)
    assert any("operators=[2, 3]" in line for line in lines)  # defaults are shown
    assert "splits: train 70%, fitness 15%, test 15%" in lines


def test_shipped_recipe_runs(tmp_path: Path) -> None:
    recipe, where = read_recipe("data_small", None)
    verb.execute(recipe, tmp_path / "out", where=where)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert {"prose", "python", "math", "mc"} <= set(record["splits"]["train"])
    assert record["splits"]["fitness"]["combined"] > 200


def test_killed_and_repeated_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(RECIPE))
    code = (
        "import sys; from pathlib import Path; from smelt.verbs.data import data; "
        "data(sys.argv[1], Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(recipe), str(tmp_path / "out")]
    partial = tmp_path / "out.partial"
    for wanted in ("key", "fitness.jsonl"):  # killed early, and while rows are written
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while not (partial / wanted).exists() and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if (tmp_path / "out").exists():  # published before the signal came: nothing to repeat
            break
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert digest.files(tmp_path / "out") == digest.files(made)
