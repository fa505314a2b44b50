"""What every benchmark must do; its data here are a few rows in its own format."""

import json
from pathlib import Path
from typing import Any

import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.data.document import make, write_jsonl
from smelt.evals.benchmark import Benchmark, Item

pytestmark = pytest.mark.parametrize("name", registry.names("benchmark"))


def write_chains(path: Path) -> None:
    prompt, response = "max[352]*1-2=", "5*1-2=5-2=3."
    meta = {"task": "mc", "answer": "3", "verifier": "expression"}
    rows = [make(prompt + response, source="composed", domain="mc", prompt=prompt, meta=meta)]
    write_jsonl(path, [*rows, make("plain text", source="prose", domain="prose")])


def write_questions(path: Path) -> None:
    rows = [
        {"question": "Ann has 3 apples and buys 4. How many?", "answer": "3+4=7 apples\n#### 7"},
        {"question": "What is half of 2,468?", "answer": "It is 1,234.\n#### 1,234"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# A benchmark with a format of its own adds its writer here; all others read questions and answers.
WRITERS = {"chains": write_chains}


@pytest.fixture
def loaded(name: str, tmp_path: Path) -> tuple[Benchmark, list[Item]]:
    path = tmp_path / "data.jsonl"
    WRITERS.get(name, write_questions)(path)
    benchmark: Benchmark = registry.load("benchmark", name)
    return benchmark, list(benchmark.read(path))


def test_the_gold_answer_is_right_and_nothing_is_wrong(loaded: Any) -> None:
    benchmark, items = loaded
    assert items
    for item in items:
        assert benchmark.score(item.gold, item) == (True, "right")
        for answer in ("", " ", "\n", "I do not know.", "\x00", "=" * 5000, "9" * 5000, "(" * 500):
            correct, reason = benchmark.score(answer, item)
            assert correct is False
            assert reason.islower()


def test_prompts_hide_the_answer(loaded: Any) -> None:
    for item in loaded[1]:
        assert item.gold not in item.prompt
        assert str(item.meta.get("answer", item.gold)) not in item.prompt.split()
        assert item.prompt
        assert item.group


def test_ids_are_distinct_and_facts_are_sane(loaded: Any) -> None:
    benchmark, items = loaded
    assert len({item.id for item in items}) == len(items)
    assert type(benchmark.version) is int
    assert benchmark.version >= 1
    assert benchmark.fitness_split != benchmark.test_split
    assert benchmark.max_new_tokens > 0


def test_damaged_data_is_an_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"question": ')
    with pytest.raises(UserError, match=r"data.jsonl:1"):
        list(registry.load("benchmark", name).read(path))
