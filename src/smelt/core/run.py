"""Result folders: work happens in a `.partial` sibling and is published by one rename.

A result is identified by its key: the hash of verb, recipe, seed and the content of its inputs.
The same command on a published result is done at once; on a `.partial` folder it continues.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from smelt import __version__
from smelt.core import digest, progress
from smelt.core.cost import Cost
from smelt.core.errors import UserError

RECORD = "run.json"


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
        self.replace = replace
        hashes: dict[str, str] = {}
        for name, text in inputs.items():
            if not Path(text).exists():
                raise UserError(f"{verb}: {name}", f"no such file or folder: {text}", "a path")
            hashes[name] = digest.path(Path(text))
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
        self.done = self._published()

    def _published(self) -> bool:
        if not self.out.exists():
            return False
        found = _key_of(self.out)
        if found == self.key:
            return True
        if self.replace and (found or not any(self.out.iterdir())):
            return False
        what = "the result of another recipe or input" if found else "a folder that is not ours"
        raise UserError(self.out, what, "a new folder", "name another --out, or remove it")

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UserError(self.folder, f"cannot write ({error.strerror})") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(self.folder, "another smelt is working in it", "one at a time") from error
        mark = self.folder / "key"
        if not mark.is_file() or mark.read_text() != self.key:
            for path in self.folder.iterdir():
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            mark.write_text(self.key)
        self._cost = Cost(self.folder / "cost.json")
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
            if kind is None:
                self._publish()
        except OSError as problem:
            if kind is None:
                raise UserError(self.folder, f"cannot write ({problem.strerror})") from problem
        finally:
            self._lock.close()

    def _publish(self) -> None:
        (self.folder / "key").unlink()
        text = json.dumps(self.record, indent=1, sort_keys=True, ensure_ascii=False)
        (self.folder / RECORD).write_text(text + "\n", encoding="utf-8")
        for path in self.folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        (self.folder / ".lock").unlink()
        old = self.out.with_name(self.out.name + ".old")
        if old.exists():
            shutil.rmtree(old)
        if self.out.exists():
            self.out.rename(old)
        self.folder.rename(self.out)
        if old.exists():
            shutil.rmtree(old)
        progress.say(f"{self.record['verb']}: wrote {self.out}")


def _key_of(folder: Path) -> str | None:
    """The key of a published result folder, or None for anything else."""
    return str(read_record(folder)["key"]) if (folder / RECORD).is_file() else None
