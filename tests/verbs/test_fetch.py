"""`smelt fetch` on local folders that stand in for the hub: whole files, known sources, errors."""

import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.evals import fetch
from smelt.evals.benchmark import Benchmark, Item
from smelt.evals.rows import data_folder, find_data, read_items, read_shots
from smelt.verbs.fetch import fetch as fetch_verb
from tests.evals.hub_rows import HUB_ROWS


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("SMELT_DATA", str(tmp_path / "data"))


def write_hub(folder: Path, splits: dict[str, list[dict[str, Any]]], configs: list[str]) -> str:
    """A dataset repository as a folder: a JSON file a split, and its configurations."""
    folder.mkdir()
    for split, rows in splits.items():
        lines = [json.dumps({k: v for k, v in row.items() if k != "config"}) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    files = [f"  - split: {split}\n    path: {split}.jsonl" for split in splits]
    parts = ["- config_name: " + name + "\n  data_files:\n" + "\n".join(files) for name in configs]
    if configs:
        (folder / "README.md").write_text("---\nconfigs:\n" + "\n".join(parts) + "\n---\n")
    return str(folder)


@pytest.fixture
def gsm8k(tmp_path: Path) -> Benchmark:
    benchmark: Benchmark = registry.load("benchmark", "gsm8k")
    assert benchmark.hub is not None
    place = write_hub(tmp_path / "hub", HUB_ROWS["gsm8k"], ["main"])
    return replace(benchmark, hub=replace(benchmark.hub, repository=place))


def test_files_are_whole_known_and_the_same_again(gsm8k: Benchmark, tmp_path: Path) -> None:
    out = tmp_path / "data"
    lines = fetch.fetch("gsm8k", gsm8k, out, split=None, seed=0, where="r")
    note = "1 items, but the benchmark has 1319: scores are not comparable"
    assert lines[0] == f"{out}/gsm8k/test.jsonl.gz: {note}"
    first = {path.name: path.read_bytes() for path in (out / "gsm8k").iterdir()}
    assert sorted(first) == ["source.json", "test.jsonl.gz", "train.jsonl.gz"]
    fetch.fetch("gsm8k", gsm8k, out, split="test", seed=0, where="r")
    assert {path.name: path.read_bytes() for path in (out / "gsm8k").iterdir()} == first
    row = json.loads(gzip.decompress(first["test.jsonl.gz"]))
    assert row["id"] == "gsm8k/test/0"
    assert row["answer"] == "4003"
    assert row["solution"].endswith("So 4003.")
    source = json.loads(first["source.json"])
    assert source["benchmark"] == "gsm8k"
    assert source["splits"]["test"]["rows"] == 1
    assert source["splits"]["test"]["configs"] == ["main"]
    assert len(source["splits"]["test"]["revision"]) == 64
    path = find_data("gsm8k", gsm8k, None, None, "r")
    assert path == data_folder() / "gsm8k" / "test.jsonl.gz"
    assert [item.answer for item in read_items(gsm8k, path, None, [], "r")] == ["4003"]
    assert len(read_shots("gsm8k", gsm8k, path, "r")) == 1


def test_pictures_are_not_decoded(tmp_path: Path) -> None:
    benchmark: Benchmark = registry.load("benchmark", "theoremqa")
    assert benchmark.hub is not None
    rows = [row | {"Picture": None} for row in HUB_ROWS["theoremqa"]["test"]]
    rows[0]["Picture"] = {"bytes": b"no picture at all", "path": None}
    found = datasets.Dataset.from_list(rows).cast_column("Picture", datasets.Image())
    (tmp_path / "hub").mkdir()
    found.to_parquet(tmp_path / "hub" / "test.parquet")
    benchmark = replace(benchmark, hub=replace(benchmark.hub, repository=str(tmp_path / "hub")))
    fetch.fetch("theoremqa", benchmark, tmp_path / "data", split=None, seed=0, where="r")
    lines = gzip.decompress((tmp_path / "data/theoremqa/test.jsonl.gz").read_bytes()).splitlines()
    assert [json.loads(line)["meta"]["picture"] for line in lines] == [True, *[False] * 4]


def test_splits_of_other_repositories_and_joined_ones(tmp_path: Path) -> None:
    benchmark: Benchmark = registry.load("benchmark", "math500")
    assert benchmark.hub is not None
    (other,) = benchmark.hub.others
    rows = HUB_ROWS["math500"]
    place = write_hub(tmp_path / "test", {"test": rows["test"]}, [])
    further = write_hub(tmp_path / "train", {"train": rows["train"]}, list(other.configs))
    hub = replace(benchmark.hub, repository=place, others=(replace(other, repository=further),))
    benchmark = replace(benchmark, hub=hub)
    fetch.fetch("math500", benchmark, tmp_path / "data", split=None, seed=0, where="r")
    train = find_data("math500", benchmark, None, "train", "r")
    items = read_items(benchmark, train, None, [], "r")
    assert len(items) == len(other.configs) == 7  # the one row, once for each subject
    assert items[0].answer == "2"
    svamp: Benchmark = registry.load("benchmark", "svamp")
    assert svamp.hub is not None
    one = HUB_ROWS["svamp"]["test"]
    place = write_hub(tmp_path / "s", {"train": one, "test": [one[0] | {"ID": "chal-2"}]}, [])
    svamp = replace(svamp, hub=replace(svamp.hub, repository=place))
    fetch.fetch("svamp", svamp, tmp_path / "data", split=None, seed=0, where="r")
    both = read_items(svamp, find_data("svamp", svamp, None, None, "r"), None, [], "r")
    assert [item.id for item in both] == ["svamp/chal-1", "svamp/chal-2"]
    assert both[0].question == "Ann had 9 nuts. How many are left after 2?"
    assert both[0].answer == "7"


def test_prompts_of_several_examples(tmp_path: Path) -> None:
    benchmark: Benchmark = registry.load("benchmark", "bbh")
    assert benchmark.hub is not None
    (other,) = benchmark.hub.others
    prompts = {"few_shot_prompts": HUB_ROWS["bbh"]["cot_prompts"]}
    place = write_hub(tmp_path / "prompts", prompts, ["few_shot_prompts"])
    hub = replace(benchmark.hub, others=(replace(other, repository=place),))
    benchmark = replace(benchmark, hub=hub)
    out = tmp_path / "data"
    fetch.fetch("bbh", benchmark, out, split="cot_prompts", seed=0, where="r")
    pool = read_shots("bbh", benchmark, out / "bbh" / "test.jsonl.gz", "r")
    assert [(one.question, one.answer, one.subject) for one in pool] == [
        ("Back?", "Yes", "navigate"), ("Here?", "No", "navigate"),
    ]  # fmt: skip
    example = benchmark.forms["base"].example
    assert example is not None
    assert example(pool[1]) == (
        "Q: Here?\nA: Let's think step by step.\nAway. So the answer is No."
    )


def test_made_data_follow_the_seed(tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(number)
        fetch_verb(["combined"], out=out, split="fitness", seed=seed)
        found.append((out / "combined" / "fitness.jsonl.gz").read_bytes())
        source = json.loads((out / "combined" / "source.json").read_text())
        assert source["splits"]["fitness"]["seed"] == seed
    assert found[0] == found[1] != found[2]


def no_hub(error: Exception) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    return refuse


def test_what_cannot_be_fetched_is_one_clear_error(
    gsm8k: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    out = tmp_path / "data"
    for error in (ConnectionError("offline"), HfHubHTTPError.__bases__[0]("no route")):
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", no_hub(error))
        with pytest.raises(UserError, match=r"openai/gsm8k: cannot be read \((offline|no route)"):
            fetch_verb(["gsm8k"], out=out)
    with pytest.raises(UserError, match=r"no split 'tset'. Expected 'test'"):
        fetch.fetch("gsm8k", gsm8k, out, split="tset", seed=0, where="r")
    with pytest.raises(UserError, match=r"no such plug-in. Expected 'gsm8k'"):
        fetch_verb(["gsm8"], out=out)
    with pytest.raises(UserError, match="neither on the hub nor made"):
        fetch_verb(["chains"], out=out)
    assert gsm8k.hub is not None
    for hub, message in (
        (replace(gsm8k.hub, configs=("socratic",)), "cannot be read.*socratic"),
        (replace(gsm8k.hub, splits={"test": "dev"}), "cannot be read.*dev"),
    ):
        with pytest.raises(UserError, match=message):
            fetch.fetch("gsm8k", replace(gsm8k, hub=hub), out, split="test", seed=0, where="r")
    assert not list((out / "gsm8k").iterdir())


def test_a_break_in_the_middle_leaves_nothing(gsm8k: Benchmark, tmp_path: Path) -> None:
    out = tmp_path / "data"
    assert gsm8k.hub is not None
    rows = [HUB_ROWS["gsm8k"]["test"][0], {"question": "?", "answer": "#### none"}]
    place = write_hub(tmp_path / "other", {"test": rows}, ["main"])
    broken = replace(gsm8k, hub=replace(gsm8k.hub, repository=place))
    with pytest.raises(
        UserError, match=r"gsm8k/test/1: the answer 'none' has no number\. Ex.* row of"
    ):
        fetch.fetch("gsm8k", broken, out, split="test", seed=0, where="r")
    assert not list((out / "gsm8k").iterdir())
    place = write_hub(tmp_path / "columns", {"test": [{"prompt": "?", "answer": "1"}]}, ["main"])
    broken = replace(gsm8k, hub=replace(gsm8k.hub, repository=place))
    with pytest.raises(UserError, match=r"keys \['answer', 'config', 'prompt'\].*KeyError"):
        fetch.fetch("gsm8k", broken, out, split="test", seed=0, where="r")


def test_rows_of_a_wrong_type_are_one_clear_error(gsm8k: Benchmark, tmp_path: Path) -> None:
    """And nothing is written that could not be read back."""
    rows = {"test": [{"question": "1+1?", "answer": 2}]}
    place = write_hub(tmp_path / "numbers", rows, ["main"])
    assert gsm8k.hub is not None
    hub = replace(gsm8k.hub, repository=place)

    def stripped(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "answer": row["answer"].strip()}

    def with_a_set(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "meta": {1, 2}}

    def added(row: dict[str, Any]) -> Item:
        return Item(row["id"], row["question"] + row["answer"], "", "")

    def cut(row: dict[str, Any]) -> Item:
        return Item(row["id"], "g", row["answer"].strip(), "")

    def elsewhere(row: dict[str, Any]) -> Item:
        return Item(row["id"], "a/b", row["question"], "")

    plain = replace(hub, convert=dict)
    for broken, message in (
        (replace(gsm8k, hub=replace(hub, convert=stripped)), r"keys .*AttributeError: 'int' obj"),
        (replace(gsm8k, hub=replace(hub, convert=with_a_set)), r"test/0: no row \(Object of type"),
        (replace(gsm8k, hub=plain, item=added), "test/0: can only concatenate"),
        (replace(gsm8k, hub=plain, item=cut), "test/0: 'int' object has no attribute"),
        (replace(gsm8k, hub=plain, item=elsewhere), "test/0: the group 'a/b'"),
    ):
        with pytest.raises(UserError, match=message):
            fetch.fetch("gsm8k", broken, tmp_path / "data", split="test", seed=0, where="r")
        assert not list((tmp_path / "data/gsm8k").iterdir())


def test_without_datasets_the_extra_is_named(
    gsm8k: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"datasets: not installed.*smelt\[eval\]"):
        fetch.fetch("gsm8k", gsm8k, tmp_path, split="test", seed=0, where="r")
