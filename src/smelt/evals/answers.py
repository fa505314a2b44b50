"""Answers kept by content: the same model asked the same thing is not asked again.

One SQLite file for all runs of a user, safe for several processes at once. Each finished batch is
committed, so that a run killed at any moment loses only the batch that was in flight.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, TypeVar

from smelt.core import progress
from smelt.core.digest import cache_folder
from smelt.models.backend import Backend, Likelihood, Query, Request, Written

WAIT_SECONDS = 60.0
# Keys of one query; SQLite allows at least 999 in its oldest builds.
CHUNK = 500
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
SCHEMA = "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID"

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Store:
    """Answers by key. What goes wrong with the file costs time, never an answer: a damaged one is
    set aside, a full or read-only disk ends the keeping, and one line says so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._guarded(self._connect, None)

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path | None = None) -> "Iterator[Store]":
        """The store in a file; in the user's cache unless given."""
        store = cls(cache_folder() / "answers.sqlite" if path is None else path)
        try:
            yield store
        finally:
            store.close()

    def _connect(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(self.path, timeout=WAIT_SECONDS)
        # Readers do not wait for writers; a crash of the machine may lose the last commits only.
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        with self._connection as inside:
            inside.execute(SCHEMA)

    def _guarded(self, action: Callable[[], Any], otherwise: Any) -> Any:
        """The action, once more on a fresh file if this one is damaged; else keeping ends."""
        for attempt in range(2):
            try:
                return action()
            except (sqlite3.Error, OSError) as error:
                self.close()
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code in DAMAGED and attempt == 0 and self._set_aside():
                    progress.say(f"{self.path}: damaged ({error}); set aside, begun anew")
                    if action != self._connect:
                        self._guarded(self._connect, None)
                    continue
                progress.say(f"{self.path}: answers are not kept ({error})")
                return otherwise
        return otherwise

    def _set_aside(self) -> bool:
        try:
            for end in ("-wal", "-shm"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
            self.path.replace(self.path.with_name(self.path.name + ".damaged"))
        except OSError:
            return False
        return True

    def get(self, keys: list[bytes]) -> dict[bytes, str]:
        """The values of those keys that are known."""

        def read() -> dict[bytes, str]:
            found: dict[bytes, str] = {}
            if self._connection is None:
                return found
            for start in range(0, len(keys), CHUNK):
                part = keys[start : start + CHUNK]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, value FROM answers WHERE key IN ({marks})"
                found |= dict(self._connection.execute(query, part).fetchall())
            return found

        values: dict[bytes, str] = self._guarded(read, {}) or {}
        return values

    def put(self, rows: dict[bytes, str]) -> None:
        """Keep values; they are on disk when this returns."""

        def write() -> None:
            if self._connection is not None:
                with self._connection as inside:
                    inside.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows.items())

        self._guarded(write, None)

    def close(self) -> None:
        """Close the file; nothing is kept afterwards."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None


def write_all(
    backend: Backend, requests: list[Request], label: str, store: Store | None
) -> list[Written]:
    """The continuation of each request, from the store where it is known; equal ones are asked
    once. label: of the progress bar; none is shown when it is empty."""

    def key(request: Request) -> list[Any]:
        # A greedy answer does not depend on how others are drawn.
        plain = request if request.temperature else replace(request, top_p=1.0, seed=0)
        return ["written", *astuple(plain)]

    return _all(backend, requests, backend.write, key, _written, label, store)


def likelihood_all(
    backend: Backend, queries: list[Query], label: str, store: Store | None
) -> list[Likelihood]:
    """The likelihood of each continuation; see `write_all`."""

    def key(query: Query) -> list[Any]:
        return ["likelihood", *astuple(query)]

    return _all(backend, queries, backend.likelihood, key, _likelihood, label, store)


def _all(
    backend: Backend, asked: list[Asked],
    ask: Callable[[list[Asked], Callable[[list[int], list[Answered]], None], str], None],
    key: Callable[[Asked], list[Any]], parse: Callable[[Any], Answered],
    label: str, store: Store | None,
) -> list[Answered]:  # fmt: skip
    names = {one: _hash([backend.identity, *key(one)]) for one in dict.fromkeys(asked)}
    found: dict[bytes, Answered] = {}
    for name, text in (store.get(list(names.values())) if store else {}).items():
        with contextlib.suppress(ValueError, TypeError, KeyError):  # not what we wrote: ask again
            found[name] = parse(json.loads(text))
    left = list({name: one for one, name in names.items() if name not in found}.items())

    def done(indices: list[int], answers: list[Answered]) -> None:
        fresh = {left[index][0]: one for index, one in zip(indices, answers, strict=True)}
        found.update(fresh)
        if store:
            store.put({name: json.dumps(vars(one)) for name, one in fresh.items()})

    if left:
        ask([one for _, one in left], done, label)
    return [found[names[one]] for one in asked]


def _hash(item: list[Any]) -> bytes:
    return hashlib.sha256(json.dumps(item).encode()).digest()


def _written(data: Any) -> Written:
    return Written(str(data["text"]), int(data["num_tokens"]), bool(data["finished"]))


def _likelihood(data: Any) -> Likelihood:
    return Likelihood(float(data["nats"]), int(data["num_tokens"]), bool(data["greedy"]))
