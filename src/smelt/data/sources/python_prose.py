"""English prose that every machine has: docstrings and comments of Python's standard library.

With `packages`, those of installed packages instead. Nothing is imported or run.
"""

import ast
import io
import tokenize
from collections.abc import Iterator

from smelt.data.document import Document, Packages, Skipped, make
from smelt.data.python_files import Source, parsed


def python_prose(
    seed: int,
    *,
    max_documents: int = 2000,
    max_chars: int = 4000,
    min_comment_lines: int = 3,
    packages: Packages = [],  # noqa: B006 (a recipe default; never changed)
) -> Iterator[Document | Skipped]:
    """Up to `max_documents` texts from files in a seeded order, each at most `max_chars` long.

    Longer texts end at the last paragraph that fits (`long_paragraph` counts those without one).
    Comments count when at least `min_comment_lines` of them stand on consecutive lines.
    """
    given = 0
    for source in parsed(packages, seed):
        if isinstance(source, Skipped):
            yield source
            continue
        for kind, text in [*_docstrings(source), *_comments(source, min_comment_lines)]:
            if given >= max_documents:
                return
            cut = _cut(text, max_chars)
            if not cut:
                yield Skipped("long_paragraph", text)
                continue
            given += 1
            meta = {"file": source.name, "kind": kind}
            yield make(cut, source="python_prose", domain="prose", meta=meta)


def _docstrings(source: Source) -> Iterator[tuple[str, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = (ast.get_docstring(node) or "").strip()
            if text and _writable(text):
                yield "docstring", text


def _comments(source: Source, least: int) -> Iterator[tuple[str, str]]:
    block: list[str] = []
    last = 0
    try:
        found = list(tokenize.generate_tokens(io.StringIO(source.text).readline))
    except (tokenize.TokenError, SyntaxError):
        return
    for token in found:
        own_line = token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
        if not own_line:
            continue
        if token.start[0] != last + 1:
            if len(block) >= least:
                yield "comment", "\n".join(block).strip()
            block = []
        last = token.start[0]
        words = token.string.lstrip("#").strip()
        # Rulers of dashes and old code that was commented out are no prose.
        if any(map(str.isalpha, words)) or not words:
            block.append(words)
    if len(block) >= least:
        yield "comment", "\n".join(block).strip()


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = text.rfind("\n\n", 0, most)
    return text[: max(end, 0)].rstrip()


def _writable(text: str) -> bool:
    # A literal may hold lone surrogates (as an escape), which no UTF-8 file can.
    return not any("\ud800" <= character <= "\udfff" for character in text)
