"""The search loop: budget, journal, failures, replay, order of candidates, kills."""

import json
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from smelt.core import progress, registry
from smelt.core.errors import UserError
from smelt.search.evolve import Result, evolve
from smelt.search.measured import Answer, Log
from smelt.search.recipe import Racing
from smelt.search.workers import Here, Measure, answer

START = [0.5, 0.5, 0.5]
ITEMS = 12
WEIGHTS = [1 / ITEMS] * ITEMS
RACING = Racing(first=0.25, growth=2.0, keep=0.5)


class Killed(BaseException):
    """What a test raises in the middle of a search."""


class Shuffled:
    """Several workers whose answers come back in any order."""

    def __init__(self, measure: Measure, workers: int, seed: int) -> None:
        self.workers, self._measure, self._random = workers, measure, random.Random(seed)
        self._running: list[tuple[int, list[float], list[int]]] = []
        self.most = 0

    def submit(self, candidate: int, genome: list[float], items: list[int]) -> None:
        assert len(self._running) < self.workers
        self._running.append((candidate, genome, items))
        self.most = max(self.most, len(self._running))

    def finished(self) -> tuple[int, Answer]:
        chosen = self._running.pop(self._random.randrange(len(self._running)))
        return chosen[0], answer(self._measure, *chosen[1:])

    def close(self) -> None:
        pass


def hill(genome: list[float]) -> float:
    return -sum((value - 0.2) ** 2 for value in genome)


def bumpy(genome: list[float], items: list[int]) -> list[list[float]]:
    """Items differ, their mean does not move: i and ITEMS - 1 - i are off by as much."""
    return [[hill(genome) + (item - (ITEMS - 1) / 2) * (1 + genome[0]) for item in items]]


def two(genome: list[float], items: list[int]) -> list[list[float]]:
    """Two objectives at odds in the first gene."""
    return [[genome[0] - abs(genome[1] - 0.5)] * len(items), [1 - genome[0]] * len(items)]


def search(
    folder: Path, measure: Measure = bumpy, evaluations: int = 40, name: str = "cma_es", **more: Any
) -> Result:
    objectives = more.get("objectives", 1)
    algorithm = registry.load("search-algorithm", name)(START, 3, objectives=objectives)
    pool = more.pop("pool", None) or Here(measure)
    with Log(folder) as log:
        return evolve(
            algorithm, pool, log, weights=WEIGHTS, evaluations=evaluations, label="t", **more
        )


def rows(folder: Path, name: str = "journal.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def fresh(folder: Path, name: str = "other") -> Path:
    (folder / name).mkdir()
    return folder / name


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("journal.jsonl", "measured.jsonl")]


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("name", ["cma_es", "random_search"])
@pytest.mark.parametrize("evaluations", [1, 2, 3, 8, 9, 10, 11, 40])
def test_the_budget_is_kept(tmp_path: Path, name: str, evaluations: int, lag: int) -> None:
    calls: list[list[float]] = []

    def counted(genome: list[float], items: list[int]) -> list[list[float]]:
        calls.append(genome)
        assert items == list(range(ITEMS))
        return bumpy(genome, items)

    result = search(tmp_path, counted, evaluations, name, lag=lag)
    assert len(calls) == result.evaluations == len(rows(tmp_path)) <= evaluations
    assert result.items == ITEMS * len(calls)
    assert len(calls) > evaluations - 11
    assert calls[0] == START
    assert result.start == pytest.approx(hill(START))
    assert result.best == pytest.approx(max(map(hill, calls)))
    assert hill(result.genome) == max(map(hill, calls))
    assert calls[result.candidate] == result.genome


def test_the_journal_tells_the_course(tmp_path: Path) -> None:
    result = search(tmp_path)
    found = rows(tmp_path)
    assert [row["candidate"] for row in found] == list(range(len(found)))
    assert [row["fitness"] for row in found] == pytest.approx(
        [hill(row["genome"]) for row in found]
    )
    best = -math.inf
    for row in found:
        best = max(best, row["fitness"])
        assert row["best"] == best
        assert (row["error"], row["stage"], row["items"]) == (None, 0, ITEMS)
        assert "objectives" not in row
    generations = [row["generation"] for row in found]
    assert generations == sorted(generations)
    assert [generations.count(n) for n in range(3)] == [8, 7, 7]  # 4 + 3 ln 3 and the start
    assert result.best == best > result.start  # type: ignore[operator]
    assert [member.candidate for member in result.front] == [result.candidate]


def test_weights_make_the_mean(tmp_path: Path) -> None:
    with Log(tmp_path) as log:
        algorithm = registry.load("search-algorithm", "random_search")(START, 3)
        pool = Here(lambda genome, items: [[10.0 if item else genome[0] for item in items]])
        result = evolve(algorithm, pool, log, weights=[0.75, 0.25], evaluations=1, label="t")
    assert result.best == pytest.approx(0.75 * 0.5 + 0.25 * 10)


@pytest.mark.parametrize("racing", [None, RACING])
def test_failing_candidates_are_recorded_and_the_search_goes_on(
    tmp_path: Path, racing: Racing | None
) -> None:
    def frail(genome: list[float], items: list[int]) -> list[list[float]]:
        if genome[0] > 0.6:
            raise UserError("/abs/r.yaml: model.norm.weight", "the merge overflows", "less")
        (values,) = bumpy(genome, items)
        return [[float("nan") if genome[1] > 0.6 and i == 3 else v
                 for i, v in zip(items, values, strict=True)]]  # fmt: skip

    result = search(tmp_path, frail, racing=racing)
    found = rows(tmp_path)
    reasons = {row["error"] for row in found}
    assert reasons == {None, "not a number", "model.norm.weight: the merge overflows"}
    assert all((row["fitness"] is None) == (row["error"] is not None) for row in found)
    full = [row["fitness"] for row in found if row["error"] is None and row["items"] == ITEMS]
    assert result.best == max(full)


def test_what_failed_is_told_as_the_worst(tmp_path: Path) -> None:
    told: list[list[list[float]]] = []

    class Spy:
        def ask(self) -> list[list[float]]:
            return [[0.1], [0.9]]

        def tell(self, genomes: list[list[float]], values: list[list[float]]) -> None:
            assert genomes == [[0.1], [0.9]]
            told.append(values)

        def final(self) -> list[list[float]]:
            return []

    def half(genome: list[float], items: list[int]) -> list[list[float]]:
        return [[math.inf if genome[0] > 0.5 else 0.25] * len(items)]

    with Log(tmp_path) as log:
        evolve(Spy(), Here(half), log, weights=WEIGHTS, evaluations=4, label="t")
    assert told == [[[pytest.approx(0.25)], [-1e9]]] * 2


def test_a_start_that_fails_is_told_as_none(tmp_path: Path) -> None:
    def no_start(genome: list[float], items: list[int]) -> list[list[float]]:
        return [[math.nan] * len(items)] if genome == START else bumpy(genome, items)

    for number, racing in enumerate([None, RACING]):
        folder = fresh(tmp_path, str(number))
        assert search(folder, no_start, racing=racing).start is None
        assert rows(folder)[0]["best"] is None
        with pytest.raises(UserError, match="no candidate could be scored"):
            search(fresh(folder), lambda genome, items: [[math.nan] * len(items)], racing=racing)


@pytest.mark.parametrize("racing", [None, RACING])
@pytest.mark.parametrize("stop", [0, 1, 5, 8, 17, 36])
def test_a_stopped_search_replays_to_the_same_files(
    tmp_path: Path, stop: int, racing: Racing | None
) -> None:
    whole = search(fresh(tmp_path), racing=racing)
    calls = 0

    def killed(genome: list[float], items: list[int]) -> list[list[float]]:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise Killed
        return bumpy(genome, items)

    with pytest.raises(Killed):
        search(tmp_path, killed, racing=racing)
    assert len(rows(tmp_path, "measured.jsonl")) == stop  # nothing that was finished is lost
    with (tmp_path / "measured.jsonl").open("a") as stream:
        stream.write('{"candidate": ')  # cut off in the middle of a row
    calls, stop = 0, 10**6
    resumed = search(tmp_path, killed, racing=racing)
    assert resumed == whole
    assert contents(tmp_path) == contents(tmp_path / "other")
    done, calls = calls, 0
    assert search(tmp_path, killed, racing=racing) == whole
    assert (calls, done > 0) == (0, True)  # an end without publication replays all of it
    assert contents(tmp_path) == contents(tmp_path / "other")


def test_measurements_of_another_search_are_refused(tmp_path: Path) -> None:
    search(tmp_path)
    with pytest.raises(UserError, match="candidate 1 is of another search"):
        search(tmp_path, name="random_search")
    (tmp_path / "measured.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="row 0 is no measurement"):
        search(tmp_path)


@pytest.mark.parametrize("racing", [None, RACING])
def test_the_journal_is_the_same_for_any_number_of_workers_and_any_timing(
    tmp_path: Path, racing: Racing | None
) -> None:
    expected = search(fresh(tmp_path, "one"), racing=racing, lag=1)
    for workers, seed in [(2, 0), (4, 1), (4, 2), (9, 3)]:
        folder = fresh(tmp_path, str(seed))
        pool = Shuffled(bumpy, workers, seed)
        assert search(folder, pool=pool, racing=racing) == expected  # several workers: lag 1
        assert contents(folder) == contents(tmp_path / "one")
        assert pool.most == workers
    plain = search(fresh(tmp_path, "plain"), racing=racing)
    assert plain.best > plain.start  # type: ignore[operator]
    assert contents(tmp_path / "plain") != contents(tmp_path / "one")


def test_no_worker_waits_for_one_slow_candidate(tmp_path: Path) -> None:
    class Slow(Shuffled):
        """Candidate 5 comes back only when nothing else is left to be done."""

        def finished(self) -> tuple[int, Answer]:
            quick = [one for one in self._running if one[0] != 5]
            busy.append(len(self._running))
            chosen = (quick or self._running)[0]
            self._running.remove(chosen)
            order.append(chosen[0])
            return chosen[0], answer(self._measure, *chosen[1:])

    busy: list[int] = []
    order: list[int] = []
    search(tmp_path, pool=Slow(bumpy, 3, 0))
    # Its generation is 0 to 7; the whole next one (8 to 14) was measured meanwhile.
    assert order.index(5) == 14
    assert busy[: order.index(5) - 2] == [3] * 12
    # Rows stand in order all the same.
    assert [row["candidate"] for row in rows(tmp_path)] == list(range(len(order)))


def test_rows_appear_as_soon_as_their_turn_is_there(tmp_path: Path) -> None:
    def watched(genome: list[float], items: list[int]) -> list[list[float]]:
        counts.append(len(rows(tmp_path)))
        return bumpy(genome, items)

    counts: list[int] = []
    search(tmp_path, watched, 20)
    assert counts == list(range(len(counts)))


def test_several_objectives_give_a_front(tmp_path: Path) -> None:
    result = search(tmp_path, two, 30, "random_search", objectives=2)
    found = rows(tmp_path)
    for row in found:
        expected = [row["genome"][0] - abs(row["genome"][1] - 0.5), 1 - row["genome"][0]]
        assert row["objectives"] == pytest.approx(expected)
        assert row["fitness"] == row["objectives"][0]
    beaten = {
        one["candidate"]
        for one in found
        for other in found
        if other["objectives"] != one["objectives"]
        and all(a >= b for a, b in zip(other["objectives"], one["objectives"], strict=True))
    }
    front = {member.candidate: member.objectives for member in result.front}
    assert set(front) == {row["candidate"] for row in found} - beaten
    assert result.best == max(values[0] for values in front.values())
    with pytest.raises(AssertionError, match="several objectives"):
        search(fresh(tmp_path), two, 30, "random_search", objectives=2, racing=RACING)


def test_stages_share_one_log(tmp_path: Path) -> None:
    def both(folder: Path, measure: Measure) -> list[Result]:
        with Log(folder) as log:
            make = registry.load("search-algorithm", "cma_es")
            coarse = evolve(make([0.5], 1), Here(measure), log, weights=WEIGHTS, evaluations=12,
                            label="t", expand=lambda genome: genome * 3)  # fmt: skip
            fine = evolve(make(coarse.genome * 3, 2), Here(measure), log, weights=WEIGHTS,
                          evaluations=20, label="t", stage=1)  # fmt: skip
            return [coarse, fine]

    coarse, fine = both(tmp_path, bumpy)
    found = rows(tmp_path)
    assert [row["candidate"] for row in found] == list(range(len(found)))
    sizes = [coarse.evaluations, fine.evaluations]
    assert sum(row["items"] for row in found) == coarse.items + fine.items
    assert [row["stage"] for row in found] == [0] * sizes[0] + [1] * sizes[1]
    assert found[sizes[0]]["genome"] == coarse.genome * 3
    assert fine.start == coarse.best <= fine.best == found[-1]["best"]
    calls = 0

    def killed(genome: list[float], items: list[int]) -> list[list[float]]:
        nonlocal calls
        calls += 1
        if calls == sizes[0] + 3:
            raise Killed
        return bumpy(genome, items)

    other = fresh(tmp_path)
    with pytest.raises(Killed):
        both(other, killed)
    assert both(other, bumpy) == [coarse, fine]
    assert contents(other) == contents(tmp_path)


def test_the_bar_tells_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[progress.Event] = []
    monkeypatch.setattr(progress, "_sink", events.append)
    result = search(tmp_path, two, 12, "random_search", objectives=2)
    notes = [event[2] for event in events if event[0] == "note"]
    assert notes[-1] == f"best {result.best:.4f}, front {len(result.front)}"
    assert sum(event[0] == "move" for event in events) == result.evaluations == len(notes)


KILLED = """
import sys, time
from pathlib import Path
from tests.search.test_evolve import RACING, Shuffled, bumpy, search

def slow(genome, items):
    time.sleep(0.003)
    return bumpy(genome, items)

pool = Shuffled(slow, 3, int(sys.argv[2]))
search(Path(sys.argv[1]), pool=pool, evaluations=90, name="random_search", racing=RACING)
"""


def test_killed_by_the_system_again_and_again(tmp_path: Path) -> None:
    other = fresh(tmp_path)
    search(other, pool=Shuffled(bumpy, 4, 9), evaluations=90, name="random_search", racing=RACING)
    folder = fresh(tmp_path, "killed")
    memo = folder / "measured.jsonl"
    draw = random.Random(1)
    kept, kills = 0, 0
    for attempt in range(4):
        call = [sys.executable, "-c", KILLED, str(folder), str(attempt)]
        process = subprocess.Popen(call, cwd=Path(__file__).parents[2])
        wanted = math.inf if attempt == 3 else kept + draw.randrange(1, 60)
        while process.poll() is None and _lines(memo) < wanted:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert _lines(memo) >= kept, "a finished measurement was lost"
        kept = _lines(memo)
    assert kills == 3
    assert process.returncode == 0
    assert contents(folder) == contents(other)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def test_a_measure_that_is_broken_is_no_failing_candidate(tmp_path: Path) -> None:
    def broken(genome: list[float], items: list[int]) -> list[list[float]]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(tmp_path, broken)
