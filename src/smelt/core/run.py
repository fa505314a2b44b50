"""Result folders: work happens in a `.partial` sibling and is published by one rename.

A result is identified by its key: the hash of verb, recipe, seed and the content of its inputs.
The same command on a published result is done at once; on a `.partial` folder it continues.
Killed at any moment, it leaves nothing that looks finished and is not.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from smelt import __version__
from smelt.core import digest, progress
from smelt.core.cost import Cost
from smelt.core.errors import UserError, refusal

RECORD = "run.json"
KEY = "key"
LOCK = ".lock"


def read_record(folder: Path) -> dict[str, Any]:
    """The run record of a result folder. Raises UserError when it has none or it is damaged."""
    path = folder / RECORD
    if not path.is_file():
        raise UserError(folder, f"no {RECORD} in it", "a result folder of smelt")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(path, "not JSON", "a run record", "run the stage again") from error
    if not isinstance(record, dict) or "key" not in record:
        raise UserError(path, "no key in it", "a run record", "run the stage again")
    return record


def write_atomic(path: Path, text: str) -> None:
    """Write a file by one rename: it is there as a whole, or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _replace(item: Any, mapping: dict[str, str]) -> Any:
    """The item with every string that is a key of the mapping replaced."""
    if isinstance(item, dict):
        return {key: _replace(value, mapping) for key, value in item.items()}
    if isinstance(item, list):
        return [_replace(value, mapping) for value in item]
    return mapping.get(item, item) if isinstance(item, str) else item


class Run:
    """One result folder in the making. Use as a context manager unless `done`.

    recipe: JSON data that decides the result; inputs: name -> path as written in the recipe;
    replace: a published result with another key is replaced (pipelines own their folders).
    """

    def __init__(
        self,
        out: Path,
        verb: str,
        recipe: dict[str, Any],
        inputs: dict[str, str],
        *,
        seed: int = 0,
        replace: bool = False,
    ) -> None:
        self.out = out.absolute()
        self.folder = self.out.with_name(self.out.name + ".partial")
        self.old = self.out.with_name(self.out.name + ".old")
        self.replace = replace
        hashes = {name: self._hash(f"{verb}: {name}", Path(text)) for name, text in inputs.items()}
        content = _replace(recipe, {text: hashes[name] for name, text in inputs.items()})
        self.key = digest.value([verb, content, seed, sorted(hashes.items()), __version__])
        self._relative = {t: os.path.relpath(t, self.out.parent) for t in inputs.values()}
        self.record: dict[str, Any] = {
            "verb": verb,
            "smelt": __version__,
            "key": self.key,
            "seed": seed,
            "recipe": self.relative(recipe),
            "inputs": {
                name: {
                    "path": self._relative[text],
                    "sha256": hashes[name],
                    "key": _key_of(Path(text)),
                }
                for name, text in inputs.items()
            },
        }
        self._recover()
        self.done = self._published()
        if self.done:
            progress.say(f"{verb}: {out} is done")

    def _hash(self, where: str, path: Path) -> str:
        if not path.exists():
            raise UserError(where, f"no such file or folder: {path}", "a path")
        if self.out.resolve().is_relative_to(path.resolve()):
            raise UserError(self.out, f"lies in an input ({path})", "a folder outside it")
        try:
            return digest.path(path)
        except OSError as error:
            raise UserError(where, f"cannot read {path} ({error.strerror})") from error

    def _recover(self) -> None:
        """Finish a publication that was cut off after its last write, or undo it."""
        if (self.folder / RECORD).is_file():  # the record is written last, by one rename
            with self._lock():
                if _key_of(self.folder) == self.key and not self._published():
                    self._move_into_place()
        if self.old.exists() and _is_ours(self.old):
            if self.out.exists():
                _discard(self.old)
            else:
                self.old.rename(self.out)

    def _published(self) -> bool:
        if not self.out.exists():
            return False
        if not self.out.is_dir():
            raise UserError(self.out, "not a folder", "a new folder", "name another --out")
        found = _key_of(self.out)
        if found == self.key:
            return True
        if not any(self.out.iterdir()) or (self.replace and found):
            return False
        what = "the result of another recipe or input" if found else "a folder that is not ours"
        raise UserError(self.out, what, "a new folder", "name another --out, or remove it")

    def _lock(self) -> IO[str]:
        """The open, locked lock file of the folder; closing it gives the lock back."""
        ours = {LOCK, KEY, RECORD}
        try:
            if (
                self.folder.is_dir()
                and (names := set(os.listdir(self.folder)))
                and not names & ours
            ):
                raise UserError(self.folder, "a folder that is not ours", "none of that name")
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / LOCK).open("w")
        except OSError as error:
            raise UserError(self.folder, f"cannot write ({error.strerror})") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have published the folder since the file was opened.
            if os.fstat(lock.fileno()).st_ino == (self.folder / LOCK).stat().st_ino:
                return lock
        except OSError:
            pass
        lock.close()
        raise UserError(self.folder, "another smelt is working in it", "one at a time")

    def __enter__(self) -> "Run":
        self._held = self._lock()
        mark = self.folder / KEY
        try:
            if not mark.is_file() or mark.read_text() != self.key:
                for path in self.folder.iterdir():
                    if path.name != LOCK:
                        _remove(path)
                mark.write_text(self.key)
            self._cost = Cost(self.folder / "cost.json")
        except OSError as error:
            self._held.close()
            if told := refusal(error, self.folder):
                raise told from error
            raise
        return self

    def relative(self, item: Any) -> Any:
        """The item with every input path relative to the parent of the result folder, so that a
        tree of results reads the same wherever it lies."""
        return _replace(item, self._relative)

    def note(self, **facts: Any) -> None:
        """Add facts (metrics, counts, reasons) to the run record. They must be deterministic."""
        self.record.update(facts)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._cost.write()
            if error is None:
                self._publish()
        except OSError as problem:
            if error is None:
                error = problem
        finally:
            self._held.close()
        if error is not None and (told := refusal(error, self.folder)):
            raise told from error
        if error is not None and kind is None:
            raise error

    def _publish(self) -> None:
        for path in self.folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        text = json.dumps(self.record, indent=1, sort_keys=True, ensure_ascii=False)
        write_atomic(self.folder / RECORD, text + "\n")
        self._move_into_place()
        progress.say(f"{self.record['verb']}: wrote {self.out}")

    def _move_into_place(self) -> None:
        """From a complete `.partial` folder to the published one. Called under the lock; killed
        between any two lines, the next start takes it from there."""
        (self.folder / KEY).unlink(missing_ok=True)
        (self.folder / LOCK).unlink()
        if self.out.is_dir() and not any(self.out.iterdir()):
            self.out.rmdir()
        if self.out.exists():
            if self.old.exists():
                if not _is_ours(self.old):
                    raise UserError(self.old, "a folder that is not ours", "none of that name")
                _discard(self.old)
            self.out.rename(self.old)
        self.folder.rename(self.out)
        if self.old.exists() and _is_ours(self.old):
            _discard(self.old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _discard(folder: Path) -> None:
    """Remove a result, its record last: cut off in between, it is still known as ours."""
    for path in folder.iterdir():
        if path.name != RECORD:
            _remove(path)
    (folder / RECORD).unlink(missing_ok=True)
    folder.rmdir()


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and ((folder / RECORD).is_file() or not any(folder.iterdir()))


def _key_of(folder: Path) -> str | None:
    """The key of a published result folder, or None for anything else."""
    return str(read_record(folder)["key"]) if (folder / RECORD).is_file() else None
