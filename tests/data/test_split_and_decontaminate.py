"""Splits by content, and overlaps between train and what is held out."""

import json
from pathlib import Path

import pytest

from smelt.core.errors import UserError
from smelt.data import split
from smelt.data.curate import curate
from smelt.data.decontaminate import Hit, Index, benchmark_texts, tokens
from smelt.data.document import Document, make, read_jsonl, write_jsonl
from smelt.data.recipe import read as read_recipe


def text(content: str) -> Document:
    return make(content, source="s", domain="d")


def pair(prompt: str, response: str) -> Document:
    return make(prompt + response, prompt=prompt, source="s", domain="d")


def test_shares_and_stability() -> None:
    docs = [text(f"document {i}") for i in range(4000)]
    chosen = split.assign(docs, [None] * 4000, fitness=0.1, test=0.2)
    assert abs(chosen.count("test") / 4000 - 0.2) < 0.03
    assert abs(chosen.count("fitness") / 4000 - 0.1) < 0.03
    # Rows keep their split whatever stands beside them.
    assert split.assign(docs[::7], [None] * 572, fitness=0.1, test=0.2) == chosen[::7]


def test_one_prompt_one_split() -> None:
    docs = [pair("What is 1+1?", f" answer {i}") for i in range(50)]
    docs.append(pair("what  is 1+1?", " in other letters"))
    assert len(set(split.assign(docs, [None] * 51, fitness=0.3, test=0.3))) == 1


def test_a_demanded_split_takes_the_same_prompts_along() -> None:
    docs = [pair(f"p{i}", "x") for i in range(200)] + [pair(f"p{i}", "y") for i in range(200)]
    fixed: list[str | None] = [None] * 200 + ["fitness"] * 200
    assert set(split.assign(docs, fixed, fitness=0.1, test=0.1)) == {"fitness"}


def test_ngram_overlap_names_benchmark_and_ngram() -> None:
    index = Index(4)
    index.add("Alpha beta, gamma delta.", "bench.jsonl")
    assert index.hit(text("so BETA , gamma   delta it is")) == Hit(
        "bench.jsonl", "beta , gamma delta"
    )
    assert index.hit(text("alpha beta gamma delta")) is None  # without the comma
    assert tokens("a-b C.") == ["a", "-", "b", "c", "."]


def test_short_prompts_are_compared_as_a_whole() -> None:
    index = Index(10)
    index.add("3+4=", "test")
    assert index.hit(pair("3 + 4 =", "7.")) == Hit("test", "3 + 4 =")
    assert index.hit(pair("3+4+1=", "7+1=8.")) is None
    assert index.hit(pair("9-3+4=", "6+4=10.")) is None


def test_answers_in_common_are_no_overlap() -> None:
    index = Index(4)
    index.add("1<2&T=", "test")  # the prompt alone is indexed
    assert index.hit(pair("0<1&T=", "T&T=T.")) is None


def test_benchmark_files(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text('{"question": "a", "answer": "b", "n": 3}\n')
    assert list(benchmark_texts(path, [])) == ["a", "b"]
    assert list(benchmark_texts(path, ["question"])) == ["a"]
    with pytest.raises(UserError, match=r"b.jsonl:1: nothing to compare"):
        list(benchmark_texts(path, ["other"]))
    path.write_text("{}\nnot json")
    with pytest.raises(UserError, match="nothing to compare"):
        list(benchmark_texts(path, []))
    path.write_text("not json")
    with pytest.raises(UserError, match="not JSON"):
        list(benchmark_texts(path, []))


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [pair("ä\u2028=", "b\n"), text("plain")]
    path = tmp_path / "r.jsonl"
    assert write_jsonl(path, rows) == 2
    assert list(read_jsonl(path)) == rows
    keys = {"id", "text", "prompt", "source", "domain", "meta"}
    assert set(json.loads(path.read_text().split("\n")[0])) == keys
    path.write_text('{"text": "x"}\n')
    with pytest.raises(UserError, match=r"r.jsonl:1: not a row"):
        list(read_jsonl(path))
    path.write_text(
        json.dumps({"text": "x", "id": "1", "source": "s", "domain": "d", "prompt": "y"})
    )
    with pytest.raises(UserError, match="does not begin the text"):
        list(read_jsonl(path))


def test_no_held_out_problem_is_solved_on_the_way_of_another_chain(tmp_path: Path) -> None:
    recipe = {
        "sources": [{"name": "composed", "tasks": ["math"], "count": 900, "operators": [1, 2, 3]}],
        "splits": {"fitness": 0.2, "test": 0.2, "max_per_domain": 40},
    }
    notes = curate(read_recipe(recipe, "here"), tmp_path, seed=3, where="here")
    rows = {n: list(read_jsonl(tmp_path / f"{n}.jsonl")) for n in ("train", "fitness", "test")}

    def expressions(name: str) -> set[str]:
        return {part for row in rows[name] for part in row.text[:-1].split("=")[:-1]}

    def problems(name: str) -> set[str]:
        return {row.prompt[:-1] for row in rows[name]}

    assert not problems("test") & (expressions("train") | expressions("fitness"))
    assert not problems("fitness") & expressions("train")
    dropped = next(step for step in notes["steps"] if step["step"] == "split")["dropped"]
    assert dropped["step_of_train"] > 0
    assert all(0 < len(rows[name]) <= 40 for name in ("fitness", "test"))


def test_surplus_is_chosen_by_content_so_that_every_source_keeps_its_share(tmp_path: Path) -> None:
    file = tmp_path / "more.jsonl"
    texts = [{"text": f"a text of the second source, number {n}"} for n in range(400)]
    file.write_text("".join(json.dumps(row) + "\n" for row in texts))
    other = tmp_path / "first.jsonl"
    texts = [{"text": f"the first source wrote this as its {n}th text"} for n in range(400)]
    other.write_text("".join(json.dumps(row) + "\n" for row in texts))
    recipe = {
        "sources": [{"name": "jsonl", "path": str(path), "domain": "d"} for path in (other, file)],
        "splits": {"fitness": 0.2, "test": 0.2, "max_per_domain": 40},
    }
    curate(read_recipe(recipe, "here"), tmp_path, seed=0, where="here")
    test = [row.text for row in read_jsonl(tmp_path / "test.jsonl")]
    second = sum("second source" in text for text in test)
    assert len(test) == 40
    assert 10 <= second <= 30
