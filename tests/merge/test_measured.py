"""Statistics in a merge: their scale, read once and in pieces, and vocabularies that move."""

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from smelt.checkpoint.reader import SINGLE, Checkpoint
from smelt.checkpoint.statistics import DESCRIPTION, Statistics, weights_sha256
from smelt.checkpoint.writer import write_tensors
from smelt.core.errors import UserError
from smelt.merge import measured
from smelt.merge.measured import Measured, refuse_moved
from smelt.merge.plan import MergePlan, plan
from smelt.merge.recipe import parse_recipe
from smelt.merge.sources import Files, rows_and_columns
from tests.merge.test_vocabulary import word_level

Tensors = dict[str, NDArray[Any]]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYER = "model.layers.0.mlp.up_proj.weight"
WORDS = {
    "a": {"?": 0, "one": 1, "two": 2, "three": 3},
    "b": {"?": 0, "one": 1, "two": 2, "four": 3},
}


def model(folder: Path, seed: int, words: dict[str, int]) -> Checkpoint:
    """A checkpoint of three tensors with a tokenizer of whole words."""
    random = np.random.default_rng(seed)
    shapes = {EMBEDDING: (len(words), 4), HEAD: (len(words), 4), LAYER: (6, 4)}
    word_level(folder, words)
    write_tensors(folder, {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return Checkpoint.open(folder)


def statistics(folder: Path, of: Checkpoint, kind: str) -> Tensors:
    """A statistics folder as `smelt statistics` writes it, of every tensor; gives its arrays."""
    random = np.random.default_rng(7)
    shapes = {n: of.spec(n).shape for n in of.names()}
    stored = {n: (s[1], s[1]) if kind == "gram" else s for n, s in shapes.items()}
    arrays = {n: np.square(random.normal(size=s)).astype(np.float32) for n, s in stored.items()}
    write_tensors(folder, dict(arrays))
    axis = 1 if kind == "gram" else None
    facts = {
        n: {"shape": list(s), "stored_as": n, "tokens": 5, "input_axis": axis}
        for n, s in shapes.items()
    }
    data = {
        "kind": kind, "weights_sha256": weights_sha256(of), "data_sha256": "", "rows": 1,
        "examples": 1, "tokens": 5, "options": {}, "skipped": {}, "tensors": facts, "left_out": {},
        "files": [SINGLE],
    }  # fmt: skip
    (folder / DESCRIPTION).write_text(json.dumps(data))
    return arrays


@pytest.fixture
def files() -> Iterator[Files]:
    opened = Files()
    yield opened
    opened.close()


def test_fisher_is_divided_by_its_root_mean_square_read_in_pieces(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = statistics(tmp_path / "s", model(tmp_path / "a", 1, WORDS["a"]), "fisher")
    monkeypatch.setattr(measured, "PIECE", 9)
    sizes = []
    read = Files.read

    def watched(self: Files, path: Path, start: int, size: int) -> NDArray[Any]:
        sizes.append(size)
        return read(self, path, start, size)

    monkeypatch.setattr(Files, "read", watched)
    source = Measured(Statistics.open(tmp_path / "s"), files).source(LAYER)
    assert source is not None
    assert sum(sizes) == 4 * sum(one.size for one in arrays.values())
    assert max(sizes) == 4 * 8, "two rows of four floats at a time"
    out = np.empty(rows_and_columns(source.shape), dtype=np.float64)
    source.rows(0, out)
    squares = [float(one) ** 2 for array in arrays.values() for one in array.reshape(-1)]
    expected = arrays[LAYER].astype(np.float64) / math.sqrt(math.fsum(squares) / len(squares))
    np.testing.assert_allclose(out, expected, rtol=1e-12)


def test_the_root_mean_square_is_found_once_for_all_threads(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = statistics(tmp_path / "s", model(tmp_path / "a", 1, WORDS["a"]), "fisher")
    read, calls = Files.read, []

    def slow(self: Files, path: Path, start: int, size: int) -> NDArray[Any]:
        calls.append(start)
        time.sleep(0.01)
        return read(self, path, start, size)

    monkeypatch.setattr(Files, "read", slow)
    found, together = Measured(Statistics.open(tmp_path / "s"), files), Barrier(4)

    def work(_: int) -> object:
        together.wait(10)
        return found.source(LAYER)

    with ThreadPoolExecutor(4) as pool:
        sources = list(pool.map(work, range(4)))
    assert len({str(one) for one in sources}) == 1
    assert len(calls) == len(arrays)


def test_a_gram_matrix_of_a_head_is_not_read(tmp_path: Path, files: Files) -> None:
    statistics(tmp_path / "s", model(tmp_path / "a", 1, WORDS["a"]), "gram")
    found = Measured(Statistics.open(tmp_path / "s"), files)
    assert found.source(HEAD) is None
    assert found.source(LAYER) is not None


def planned(tmp_path: Path, kind: str, **keys: Any) -> MergePlan:
    for seed, (name, words) in enumerate(WORDS.items()):
        statistics(tmp_path / f"s-{name}", model(tmp_path / name, seed, words), kind)
    method = {"gram": "regmean", "fisher": "fisher"}[kind]
    listed = [{"model": name, "statistics": f"s-{name}"} for name in WORDS]
    return plan(parse_recipe({"merge_method": method, "models": listed, **keys}, "r"), "r")


@pytest.mark.parametrize("source", ["union", "a"])
def test_fisher_with_rows_that_move_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"r: [ab]: .*moves the rows of '.*Next: take tokenizer_so"):
        refuse(planned(tmp_path, "fisher", tokenizer_source=source))


def refuse(made: MergePlan) -> None:
    refuse_moved(made.tensors, made.models, made.where)


def test_gram_matrices_do_not_mind_where_rows_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = planned(tmp_path, "gram", tokenizer_source="union")
    assert any(item.rows is not None for item in made.tensors)
    refuse(made)


def test_fisher_with_one_vocabulary_may_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(WORDS, "b", WORDS["a"])
    made = planned(tmp_path, "fisher", tokenizer_source="union")
    assert any(item.rows is not None for item in made.tensors)
    refuse(made)
