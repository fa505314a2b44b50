"""The search loop: budget, journal, failures, replay."""

import json
import math
from pathlib import Path

import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.search.evolve import Result, evolve

START = [0.5, 0.5, 0.5]


class Killed(BaseException):
    """What a test raises in the middle of a search."""


def hill(genome: list[float]) -> float:
    return -sum((value - 0.2) ** 2 for value in genome)


def search(folder: Path, fitness=hill, evaluations: int = 40, name: str = "cma_es") -> Result:  # type: ignore[no-untyped-def]
    algorithm = registry.load("search-algorithm", name)(START, 3)
    journal = folder / "journal.jsonl"
    return evolve(algorithm, fitness, journal, evaluations=evaluations, label="t")


def rows(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["cma_es", "random_search"])
@pytest.mark.parametrize("evaluations", [1, 2, 3, 8, 9, 10, 11, 40])
def test_the_budget_is_kept(tmp_path: Path, name: str, evaluations: int) -> None:
    calls: list[list[float]] = []

    def counted(genome: list[float]) -> float:
        calls.append(genome)
        return hill(genome)

    result = search(tmp_path, counted, evaluations, name)
    assert len(calls) == result.evaluations == len(rows(tmp_path)) <= evaluations
    assert len(calls) > evaluations - 10
    assert calls[0] == START
    assert result.start == hill(START)
    assert result.best == max(map(hill, calls)) == hill(result.genome)


def test_the_journal_tells_the_course(tmp_path: Path) -> None:
    result = search(tmp_path)
    found = rows(tmp_path)
    assert [row["candidate"] for row in found] == list(range(len(found)))
    assert [row["fitness"] for row in found] == [hill(row["genome"]) for row in found]
    best = -math.inf
    for row in found:
        best = max(best, row["fitness"])
        assert row["best"] == best
        assert row["error"] is None
    generations = [row["generation"] for row in found]
    assert generations == sorted(generations)
    assert [generations.count(n) for n in range(3)] == [8, 7, 7]  # 4 + 3 ln 3 and the start
    assert result.best == best > result.start  # type: ignore[operator]


def test_failing_candidates_are_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    def frail(genome: list[float]) -> float:
        if genome[0] > 0.6:
            raise UserError("/abs/r.yaml: model.norm.weight", "the merge overflows", "less")
        return float("nan") if genome[1] > 0.6 else hill(genome)

    result = search(tmp_path, frail)
    found = rows(tmp_path)
    reasons = {row["error"] for row in found}
    assert reasons == {None, "not a number", "model.norm.weight: the merge overflows"}
    assert all((row["fitness"] is None) == (row["error"] is not None) for row in found)
    assert result.best == max(row["fitness"] for row in found if row["error"] is None)


def test_a_start_that_fails_is_told_as_none(tmp_path: Path) -> None:
    result = search(tmp_path, lambda genome: float("nan") if genome == START else hill(genome))
    assert result.start is None
    assert rows(tmp_path)[0]["best"] is None
    with pytest.raises(UserError, match="no candidate could be scored"):
        search(_fresh(tmp_path), lambda genome: float("nan"))


def _fresh(folder: Path) -> Path:
    (folder / "other").mkdir()
    return folder / "other"


@pytest.mark.parametrize("stop", [0, 1, 5, 8, 17, 36])
def test_a_killed_search_replays_to_the_same_journal(tmp_path: Path, stop: int) -> None:
    whole = search(_fresh(tmp_path))
    calls = 0

    def killed(genome: list[float]) -> float:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise Killed
        return hill(genome)

    with pytest.raises(Killed):
        search(tmp_path, killed)
    with (tmp_path / "journal.jsonl").open("a") as journal:
        journal.write('{"candidate": ')  # cut off in the middle of a row
    calls = -1000
    stop = 10**6
    resumed = search(tmp_path, killed)
    assert resumed == whole
    text = (tmp_path / "journal.jsonl").read_bytes()
    assert text == (tmp_path / "other" / "journal.jsonl").read_bytes()


def test_a_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    search(tmp_path)
    with pytest.raises(UserError, match="row 1 is of another search"):
        search(tmp_path, name="random_search")
