"""A search and the test split: no way leads from one to the other."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smelt.core.errors import UserError
from smelt.data.document import write_jsonl
from smelt.search.prepare import prepare
from tests.train.rows import SUMS, pair
from tests.verbs.searches import make_models, recipe


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("search"))


def test_a_search_never_reads_a_test_split(home: Path) -> None:
    rows = (home / "fitness.jsonl").read_text().splitlines(keepends=True)
    (home / "test.jsonl").write_text(rows[3])
    with pytest.raises(UserError, match=f"row {json.loads(rows[3])['id']} of fitness.jsonl also"):
        prepare(recipe(), "r")
    data = recipe(fitness={"data": "test.jsonl", "domains": {"sum": 1.0}})
    with pytest.raises(UserError, match=r"test.jsonl is a test split"):
        prepare(data, "r")
    other = pair("9+9=", "18.")
    write_jsonl(home / "test.jsonl", [other])
    assert len(prepare(recipe(), "r").fitness_rows["sum"]) == 12


def _renamed(home: Path) -> dict[str, Any]:
    (home / "test.jsonl").rename(home / "dev.jsonl")
    return {"data": "dev.jsonl", "test": "copy.jsonl"}


def _linked(home: Path) -> dict[str, Any]:
    (home / "elsewhere").mkdir()
    (home / "elsewhere/mine.jsonl").symlink_to(home / "copy.jsonl")
    return {"data": "elsewhere/mine.jsonl"}


def _another_test(home: Path) -> dict[str, Any]:
    write_jsonl(home / "easy.jsonl", [pair("9+9=", "18.")])
    return {"data": "copy.jsonl", "test": "easy.jsonl"}


def _other_ids(home: Path) -> dict[str, Any]:
    rows = [
        json.loads(line) | {"id": "x"} for line in (home / "copy.jsonl").read_text().splitlines()
    ]
    (home / "copy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"data": "copy.jsonl"}


def _other_answers(home: Path) -> dict[str, Any]:
    write_jsonl(home / "copy.jsonl", [pair(one, "wrong") for one, _ in SUMS[:3]])
    return {"data": "copy.jsonl"}


def _packed(home: Path) -> dict[str, Any]:
    (home / "copy.jsonl.gz").write_bytes(gzip.compress((home / "copy.jsonl").read_bytes()))
    return {"data": "copy.jsonl.gz"}


WAYS = [_renamed, _linked, _another_test, _other_ids, _other_answers, _packed]


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_no_way_around_the_test_split(home: Path, way: Callable[[Path], dict[str, Any]]) -> None:
    for name in ("test.jsonl", "copy.jsonl"):
        write_jsonl(home / name, [pair(*one) for one in SUMS[:3]])
    with pytest.raises(UserError, match="also stands in the test split"):
        prepare(recipe(fitness={"domains": {"sum": 1.0}, **way(home)}), "r")


def test_a_link_to_a_test_file_is_refused_by_its_name(home: Path) -> None:
    (home / "elsewhere").mkdir()
    write_jsonl(home / "test.jsonl", [pair(*SUMS[0])])
    (home / "elsewhere/mine.jsonl").symlink_to(home / "test.jsonl")
    data = recipe(fitness={"data": "elsewhere/mine.jsonl", "domains": {"sum": 1.0}})
    with pytest.raises(UserError, match="is a test split"):
        prepare(data, "r")
