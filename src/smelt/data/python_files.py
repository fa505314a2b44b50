"""Python source files that every machine has: the standard library, and installed packages.

Files are read and parsed, never imported or run.
"""

import ast
import hashlib
import importlib.metadata
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from smelt.core.errors import UserError
from smelt.data.document import Skipped

# Tests repeat themselves, generated tables teach nothing, and site-packages is no standard library.
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings"})


class Source(NamedTuple):
    """A parsed file: its name (relative, the same on every machine), text and syntax tree."""

    name: str
    text: str
    tree: ast.Module


def files(packages: list[str]) -> list[tuple[str, Path]]:
    """Relative names and paths: the standard library's files, or those of the named packages.

    Raises UserError for a package that is not installed.
    """
    found: dict[str, Path] = {}
    if not packages:
        root = Path(sysconfig.get_path("stdlib"))
        for path in root.rglob("*.py"):
            if not _LEFT_OUT.intersection(path.relative_to(root).parts):
                found[path.relative_to(root).as_posix()] = path
    for package in packages:
        try:
            listed = importlib.metadata.distribution(package).files or []
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError("packages", f"'{package}' is not installed", "one that is") from error
        for entry in listed:
            if entry.suffix == ".py" and not _LEFT_OUT.intersection(entry.parts):
                found[entry.as_posix()] = Path(str(entry.locate()))
    return sorted(found.items())


def parsed(packages: list[str], seed: int) -> Iterator[Source | Skipped]:
    """Every file that parses, in an order drawn from the seed and the file's name alone."""

    def place(item: tuple[str, Path]) -> bytes:
        return hashlib.blake2b(f"{seed}\x1f{item[0]}".encode(), digest_size=8).digest()

    for name, path in sorted(files(packages), key=place):
        try:
            text = path.read_text(encoding="utf-8")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old escapes in string literals
                tree = ast.parse(text)
        except (OSError, SyntaxError, ValueError, RecursionError):
            yield Skipped("unreadable_file", name)
            continue
        yield Source(name, text, tree)
