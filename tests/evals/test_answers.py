"""The answer store: nothing is asked twice, nothing is lost but the batch in flight."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smelt.core import progress
from smelt.evals.answers import Store, likelihood_all, write_all
from smelt.models.backend import Likelihood, Message, Query, Request, Written

Done = Callable[[list[int], list[Any]], None]


class Counting:
    """Answers with the prompt backwards, in batches of two, and remembers what it was asked."""

    context = 99

    def __init__(self, identity: str = "a", stop_after: int = 99) -> None:
        self.identity, self.stop_after = identity, stop_after
        self.asked: list[Any] = []

    def chat(self, messages: list[Message]) -> str | None:
        return None

    def num_tokens(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    def _batches(self, asked: list[Any], done: Done, answer: Callable[[Any], Any]) -> None:
        for number, start in enumerate(range(0, len(asked), 2)):
            if number == self.stop_after:
                raise KeyboardInterrupt
            part = asked[start : start + 2]
            self.asked += part
            done(list(range(start, start + len(part))), [answer(one) for one in part])

    def write(self, requests: list[Request], done: Done, label: str) -> None:
        self._batches(
            requests, done, lambda one: Written(one.prompt[::-1] + str(one.seed), 3, True)
        )

    def likelihood(self, queries: list[Query], done: Done, label: str) -> None:
        self._batches(queries, done, lambda one: Likelihood(-len(one.prompt) / 3, 2, False))

    def close(self) -> None: ...


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(progress, "say", lines.append)
    return lines


REQUESTS = [Request(text, 5) for text in ("ab", "cd", "ab", "ef", "é\n\x00")]
ANSWERS = [Written(one.prompt[::-1] + "0", 3, True) for one in REQUESTS]


def test_equal_requests_are_asked_once_with_and_without_a_store(tmp_path: Path) -> None:
    backend = Counting()
    assert write_all(backend, REQUESTS, "", None) == ANSWERS
    assert len(backend.asked) == 4
    with Store.open(tmp_path / "s") as store:
        assert write_all(Counting(), REQUESTS, "", store) == ANSWERS
    silent = Counting(stop_after=0)
    with Store.open(tmp_path / "s") as store:
        assert write_all(silent, REQUESTS, "", store) == ANSWERS
        assert write_all(silent, [], "", store) == []
    assert silent.asked == []


def test_the_key_is_everything_that_decides(tmp_path: Path) -> None:
    queries = [Query("abc", "d"), Query("abc", "e"), Query("abcd", "")]
    with Store.open(tmp_path / "s") as store:
        first = likelihood_all(Counting(), queries, "", store)
        assert first == [Likelihood(-1.0, 2, False), first[0], Likelihood(-4 / 3, 2, False)]
        assert likelihood_all(Counting(stop_after=0), queries, "", store) == first
        drawn = [Request("ab", 5, temperature=0.5, seed=seed) for seed in (1, 2)]
        others = [Request("ab", 6), Request("ab", 5, ("x",)), Request("ab", 5), *drawn,
                  Request("ab", 5, temperature=0.5, seed=1, top_p=0.5)]  # fmt: skip
        backend = Counting()
        write_all(backend, others, "", store)
        assert len(backend.asked) == 6
        again = Counting("another model")
        write_all(again, others, "", store)
        assert len(again.asked) == 6
        # How others are drawn does not touch a greedy answer.
        quiet = Counting()
        write_all(quiet, [Request("ab", 5, seed=4, top_p=0.3)], "", store)
        assert quiet.asked == []


def test_a_broken_off_run_loses_the_batch_in_flight_only(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store, pytest.raises(KeyboardInterrupt):
        write_all(Counting(stop_after=1), REQUESTS, "", store)
    backend = Counting()
    with Store.open(tmp_path / "s") as store:
        assert write_all(backend, REQUESTS, "", store) == ANSWERS
    assert [one.prompt for one in backend.asked] == ["ef", "é\n\x00"]


KILLED = """
import os, signal, sys
from pathlib import Path
from smelt.evals.answers import Store
with Store.open(Path(sys.argv[1])) as store:
    store.put({b"one": "1"})
    store._connection.execute("INSERT INTO answers VALUES (?, ?)", (b"two", "2"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_in_the_middle_of_a_commit(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "s")], check=False)
    assert done.returncode == -signal.SIGKILL
    with Store.open(tmp_path / "s") as store:
        assert store.get([b"one", b"two"]) == {b"one": "1"}


def _put(path: Path, name: str) -> None:
    with Store.open(path) as store:
        for number in range(40):
            store.put({f"{name}{number}".encode(): name})


def test_two_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_put, args=(tmp_path / "s", name)) for name in "ab"]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
        assert one.exitcode == 0
    keys = [f"{name}{number}".encode() for name in "ab" for number in range(40)]
    with Store.open(tmp_path / "s") as store:
        assert len(store.get(keys)) == 80


def test_more_keys_than_one_query_takes(tmp_path: Path) -> None:
    rows = {str(number).encode(): str(number) for number in range(1234)}
    with Store.open(tmp_path / "s") as store:
        store.put(rows)
        assert store.get(list(rows)) == rows


@pytest.mark.parametrize("damage", ["no database", "torn"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, said: list[str], damage: str) -> None:
    path = tmp_path / "s"
    with Store.open(path) as store:
        store.put({str(number).encode(): "x" * 500 for number in range(200)})
    data = path.read_bytes()
    torn = data[:4096] + os.urandom(len(data) - 4096)
    path.write_bytes(b"hello" * 2000 if damage == "no database" else torn)
    with Store.open(path) as store:
        assert write_all(Counting(), REQUESTS, "", store) == ANSWERS
    assert len(said) == 1
    assert "damaged" in said[0]
    assert (tmp_path / "s.damaged").is_file()
    with Store.open(path) as store:
        assert write_all(Counting(stop_after=0), REQUESTS, "", store) == ANSWERS


def test_a_damaged_row_is_asked_again(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        write_all(Counting(), REQUESTS, "", store)
    with sqlite3.connect(tmp_path / "s") as inside:
        inside.execute("UPDATE answers SET value = substr(value, 2)")
    inside.close()
    backend = Counting()
    with Store.open(tmp_path / "s") as store:
        assert write_all(backend, REQUESTS, "", store) == ANSWERS
    assert len(backend.asked) == 4


def test_a_full_disk_costs_time_only(tmp_path: Path, said: list[str]) -> None:
    with Store.open(tmp_path / "s") as store:
        assert store._connection is not None
        store._connection.execute("PRAGMA max_page_count=2")
        long = [Request("x" * 9000 + str(number), 5) for number in range(6)]
        found = write_all(Counting(), long, "", store)
        assert [one.text for one in found] == [one.prompt[::-1] + "0" for one in long]
        assert write_all(Counting(), REQUESTS, "", store) == ANSWERS
    assert len(said) == 1
    assert "answers are not kept (database or disk is full)" in said[0]


def test_a_place_that_cannot_be_written(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_text("")
    with Store.open(tmp_path / "file" / "s") as store:
        assert write_all(Counting(), REQUESTS, "", store) == ANSWERS
    assert len(said) == 1


def test_the_place_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMELT_CACHE", str(tmp_path))
    with Store.open() as store:
        assert store.path == tmp_path / "smelt" / "answers.sqlite"
        write_all(Counting(), REQUESTS, "", store)
    assert store.path.is_file()
