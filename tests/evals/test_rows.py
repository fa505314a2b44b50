"""Finding data and reading rows: what is taken, what is refused and where the error points."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.data.document import make, write_jsonl
from smelt.evals.benchmark import Benchmark
from smelt.evals.rows import data_folder, find_data, read_items, read_shots

GOOD = {"answer": "3", "verifier": "expression"}


@pytest.fixture
def gsm8k() -> Benchmark:
    found: Benchmark = registry.load("benchmark", "gsm8k")
    return found


@pytest.fixture
def bbh() -> Benchmark:
    found: Benchmark = registry.load("benchmark", "bbh")
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    packed = gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode()
    path.write_bytes(packed)
    return path


def tasks(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"id": name, "question": "?", "answer": "x", "subject": task} for name, task in pairs]


def test_a_file_a_folder_a_folder_of_folders_and_what_was_fetched(
    gsm8k: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMELT_DATA", str(tmp_path / "fetched"))
    row = [{"question": "1+1?", "answer": "2"}]
    single = write(tmp_path / "mine.jsonl", row)
    flat = write(tmp_path / "flat" / "test.jsonl.gz", row)
    deep = write(tmp_path / "deep" / "gsm8k" / "train.jsonl", row)
    fetched = write(tmp_path / "fetched" / "gsm8k" / "test.jsonl.gz", row)

    def find(data: str | None, split: str | None = None) -> Path:
        return find_data("gsm8k", gsm8k, data, split, "r")

    assert find(str(single)) == single
    assert find(str(tmp_path / "flat")) == flat
    assert find(str(tmp_path / "deep"), "train") == deep
    assert find(None) == fetched
    assert find_data("pack.mod:gsm8k", gsm8k, None, None, "r") == fetched
    for data, split, message in (
        (None, "train", r"no data of gsm8k \(train.jsonl or .*Next: smelt fetch gsm8k$"),
        (str(tmp_path / "deep"), None, r"Next: smelt fetch gsm8k --out .*deep$"),
        (str(tmp_path / "flat"), "tset", "split: 'tset' of gsm8k. Expected 'test'"),
        (str(tmp_path / "no.jsonl"), None, "no such file: .*no.jsonl"),
        (str(single), "train", "split: 'train', and .*mine.jsonl is a file"),
    ):
        with pytest.raises(UserError, match=message):
            find(data, split)
    chains: Benchmark = registry.load("benchmark", "chains")
    with pytest.raises(UserError, match="smelt data RECIPE OUT"):
        find_data("chains", chains, str(tmp_path / "flat"), "fitness", "r")


def test_the_folder_of_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMELT_DATA", "SMELT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert data_folder() == Path.home() / ".cache" / "smelt" / "data"
    monkeypatch.setenv("SMELT_CACHE", "/c")
    assert data_folder() == Path("/c/smelt/data")
    monkeypatch.setenv("SMELT_DATA", "~/d")
    assert data_folder() == Path.home() / "d"


def test_limits_and_selection(bbh: Benchmark, tmp_path: Path) -> None:
    rows = tasks(("a", "navigate"), ("b", "snarks"), ("c", "navigate"), ("d", "snarks"))
    path = write(tmp_path / "t.jsonl.gz", rows)

    def ids(limit: int | None, only: list[str]) -> list[str]:
        return [item.id for item in read_items(bbh, path, limit, only, "r")]

    assert ids(None, []) == ["a", "b", "c", "d"]
    assert ids(3, []) == ["a", "b", "c"]  # of the group bbh
    assert ids(None, ["snarks"]) == ["b", "d"]
    assert ids(1, ["snarks"]) == ["b"]
    assert ids(2, ["bbh"]) == ["a", "b"]
    with pytest.raises(UserError, match=r"r: only: 'snark', not in .*Expected 'snarks'"):
        ids(None, ["snark"])


def test_damage_is_named_with_its_line(bbh: Benchmark, tmp_path: Path) -> None:
    good = tasks(("a", "navigate"))
    for rows, message in (
        ([*good, *good], "t.jsonl:2: the id 'a' again, as in .*t.jsonl:1"),
        ([*good, {"id": "b", "question": "?"}], "t.jsonl:2: a row without 'answer'"),
        ([*good, {"id": "b", "question": "?", "answer": " ", "subject": "s"}],
         "t.jsonl:2: an empty answer"),
        ([], "t.jsonl has no items"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            read_items(bbh, write(tmp_path / "t.jsonl", rows), None, [], "r")
    path = write(tmp_path / "t.jsonl", good)
    path.write_text(path.read_text() + "\n[1]\n")
    with pytest.raises(UserError, match=r"t.jsonl:3: no row \(not an object\)"):
        read_items(bbh, path, None, [], "r")
    (tmp_path / "u.jsonl.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="damaged archive"):
        read_items(bbh, tmp_path / "u.jsonl.gz", None, [], "r")


@pytest.mark.parametrize("domain", ["../../evil", "a/b", ".hidden", "", "a\0b"])
def test_a_group_is_a_plain_name(tmp_path: Path, domain: str) -> None:
    row = make("1+2=3.", source="s", domain=domain, prompt="1+2=", meta=GOOD)
    write_jsonl(tmp_path / "test.jsonl", [row])
    with pytest.raises(UserError, match=r"test.jsonl:1: the group"):
        read_items(registry.load("benchmark", "chains"), tmp_path / "test.jsonl", None, [], "r")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({**GOOD, "verifier": "os:system"}, "verifier 'os:system', which is not one of: .*expr"),
        ({**GOOD, "verifier": "expresion"}, "verifier 'expresion', which is not 'expression'"),
        ({"verifier": "expression"}, "meta without an answer"),
        ({**GOOD, "answer": "3 apples"}, "answer '3 apples'"),
        ({"answer": "many", "verifier": "number"}, "answer 'many'"),
    ],
)
def test_bad_chains_are_named_when_read(tmp_path: Path, meta: dict[str, Any], message: str) -> None:
    row = make("1+2=3.", source="s", domain="math", prompt="1+2=", meta=meta)
    write_jsonl(tmp_path / "test.jsonl", [row])
    with pytest.raises(UserError, match=f"test.jsonl:1: {message}"):
        read_items(registry.load("benchmark", "chains"), tmp_path / "test.jsonl", None, [], "r")


def test_solved_examples_stand_beside_the_data_or_where_they_were_fetched(
    gsm8k: Benchmark, bbh: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMELT_DATA", str(tmp_path / "fetched"))
    data = write(tmp_path / "mine" / "test.jsonl", [{"question": "1+1?", "answer": "2"}])
    assert read_shots("gsm8k", gsm8k, data, "r") == []
    rows = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(70)]
    write(tmp_path / "fetched" / "gsm8k" / "train.jsonl.gz", rows[:3])
    assert [one.answer for one in read_shots("gsm8k", gsm8k, data, "r")] == ["1", "2", "3"]
    write(tmp_path / "mine" / "train.jsonl", rows)
    assert len(read_shots("gsm8k", gsm8k, data, "r")) == 64
    assert [one.answer for one in read_shots("gsm8k", gsm8k, data, "r", most=2)] == ["1", "2"]
    assert read_shots("svamp", registry.load("benchmark", "svamp"), data, "r") == []


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "bbh"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared BBH prompts")
def test_bbh_prompts_come_back_word_for_word(bbh: Benchmark) -> None:
    pool = read_shots("bbh", bbh, SHARED / "test.jsonl.gz", "r")
    form = bbh.forms["base"]
    assert form.example is not None
    assert form.before is not None
    with gzip.open(SHARED / "cot_prompts.jsonl.gz", "rt", encoding="utf-8") as stream:
        prompts = [json.loads(line) for line in stream]
    assert len(prompts) == 27
    for prompt in prompts:
        own = [one for one in pool if one.subject == prompt["subject"]]
        assert len(own) == 3
        text = form.before(own[0]) + form.between.join(map(form.example, own))
        assert text == prompt["text"].strip()
        for one in own:
            assert form.rules["phrase"](one.gold, one)[0] == 1


def test_a_limit_takes_subjects_in_turn(tmp_path: Path) -> None:
    benchmark = registry.load("benchmark", "mmlu")
    rows = [
        {"id": str(n), "question": f"q{n}", "choices": ["w", "x", "y", "z"], "answer": "A",
         "answer_index": 0, "subject": subject}
        for n, subject in enumerate(["law", "law", "law", "art", "art", "law"])
    ]  # fmt: skip
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for limit, kept in ((1, ["0"]), (2, ["0", "3"]), (3, ["0", "1", "3"]), (5, list("01234"))):
        assert [item.id for item in read_items(benchmark, path, limit, [], "w")] == kept
