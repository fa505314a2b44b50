"""Drop train rows that overlap held-out or benchmark text: token n-grams, or whole short prompts.

InfiR (arXiv:2502.11573) removes token-level 10-gram overlap. Of a held-out pair only the *prompt*
is compared: its answer may be short or templated (every chain that ends in `T|T=T.` would fall).
Held-out text shorter than one n-gram cannot contain one, so it is compared as a whole with the
prompts (or texts) of train.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from smelt.core.errors import UserError
from smelt.data.document import Document, normalize, parse_row, read_lines, split_key

_TOKEN = re.compile(r"\w+|[^\w\s]")


class Hit(NamedTuple):
    """What a train row overlaps: the benchmark (or split) and the shared text."""

    benchmark: str
    ngram: str


def tokens(text: str) -> list[str]:
    """Words and single punctuation marks of the normalized text."""
    return _TOKEN.findall(normalize(text))


def written_steps(doc: Document) -> set[str]:
    """Every expression that a chain writes out, its problem first; nothing for other rows.

    A chain solves more than its own problem: `2+3*1=2+3=5.` shows the answer to `2+3=` as well.
    """
    chain = doc.meta.get("verifier") == "expression"
    return set(doc.text.rstrip(".").split("=")[:-1]) if chain else set()


def problem(doc: Document) -> str:
    """The expression that a chain row asks about."""
    return doc.prompt.rstrip("=")


class Index:
    """The n-grams of held-out texts. State: one entry for each n-gram or short text."""

    def __init__(self, ngram: int) -> None:
        self.ngram = ngram
        self.grams: dict[tuple[str, ...], str] = {}
        self.short: dict[tuple[str, ...], str] = {}

    def add(self, text: str, benchmark: str) -> None:
        """Add a held-out text under the name of its benchmark (the first name stays)."""
        words = tokens(text)
        if words and len(words) < self.ngram:
            self.short.setdefault(tuple(words), benchmark)
        for gram in _grams(words, self.ngram):
            self.grams.setdefault(gram, benchmark)

    def hit(self, doc: Document) -> Hit | None:
        """The first overlap of a train document, or None."""
        whole = tuple(tokens(split_key(doc)))
        if whole in self.short:
            return Hit(self.short[whole], " ".join(whole))
        if self.grams:
            for gram in _grams(tokens(doc.text), self.ngram):
                if gram in self.grams:
                    return Hit(self.grams[gram], " ".join(gram))
        return None


def _grams(words: list[str], size: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)


def benchmark_texts(path: Path, fields: list[str]) -> Iterable[str]:
    """The texts of a benchmark's JSONL file: the named fields, or every text field of each row.

    Raises UserError for a line that is no JSON object or has none of the fields.
    """
    for number, line in read_lines(path):
        try:
            row = parse_row(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}", "not JSON", "one object a line") from error
        texts = [row.get(name) for name in fields or row]
        found = [text for text in texts if isinstance(text, str) and text.strip()]
        if not found:
            expected = f"text in one of: {', '.join(fields)}" if fields else "a text field"
            raise UserError(f"{path}:{number}", "nothing to compare", expected)
        yield from found
