"""Content hashes of files, folders and values: what a done mark is keyed by."""

import hashlib
import json
from pathlib import Path
from typing import Any

# Timings differ from run to run; they must not change the identity of a result.
NOT_CONTENT = frozenset({"cost.json", ".lock"})


def file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files(folder: Path) -> dict[str, str]:
    """sha256 of every content file of a folder, keyed by its relative path, sorted."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): file(path)
        for path in found
        if path.name not in NOT_CONTENT
    }


def path(target: Path) -> str:
    """sha256 of a file, or of the sorted list of a folder's file hashes."""
    return file(target) if target.is_file() else value(files(target))


def value(item: Any) -> str:
    """sha256 of a JSON value in canonical form."""
    text = json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
