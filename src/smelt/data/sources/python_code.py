"""Python code that every machine has: functions and classes of the standard library.

With `packages`, those of installed packages instead. Nothing is imported or run.
"""

import ast
import textwrap
from collections.abc import Iterator

from smelt.data.document import Document, Packages, Skipped, make
from smelt.data.python_files import parsed

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def python_code(
    seed: int,
    *,
    max_documents: int = 2000,
    min_lines: int = 4,
    max_chars: int = 3000,
    packages: Packages = [],  # noqa: B006 (a recipe default; never changed)
) -> Iterator[Document | Skipped]:
    """Up to `max_documents` definitions from files in a seeded order, with their decorators.

    A class longer than `max_chars` gives its methods instead; a function longer than that, or
    shorter than `min_lines`, is skipped (`too_long`, `too_short`). Indentation is removed.
    """
    given = 0
    for source in parsed(packages, seed):
        if isinstance(source, Skipped):
            yield source
            continue
        lines = source.text.split("\n")
        for name, text in _definitions(source.tree.body, lines, max_chars, ""):
            if given >= max_documents:
                return
            if len(text) > max_chars:
                yield Skipped("too_long", text)
            elif text.count("\n") < min_lines:
                yield Skipped("too_short", text)
            else:
                given += 1
                meta = {"file": source.name, "name": name}
                yield make(text, source="python_code", domain="python", meta=meta)


def _definitions(
    body: list[ast.stmt], lines: list[str], most: int, prefix: str
) -> Iterator[tuple[str, str]]:
    for node in body:
        if not isinstance(node, Definition):
            continue
        first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)])
        text = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])) + "\n"
        if isinstance(node, ast.ClassDef) and len(text) > most:
            yield from _definitions(node.body, lines, most, f"{prefix}{node.name}.")
        else:
            yield prefix + node.name, text
