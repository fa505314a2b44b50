"""Any JSONL or .jsonl.gz file: plain texts, or prompt-response pairs under field names of yours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smelt.core.errors import UserError
from smelt.data.document import Document, InputPath, Skipped, make, parse_row, read_lines


def jsonl(
    seed: int,
    *,
    path: InputPath,
    text: str | None = None,
    prompt: str | None = None,
    response: str | None = None,
    separator: str = "\n",
    meta: dict[str, str] = {},  # noqa: B006 (a recipe default; never changed)
    max_documents: int | None = None,
) -> Iterator[Document | Skipped]:
    """Rows in the order of the file, the first `max_documents` usable ones (the seed does nothing).

    text: field of plain documents; or prompt and response: fields of pairs (the document is
    prompt + separator + response); without any of them the fields are `text`, or `prompt` and
    `response`, as each row has them. meta: name -> field to keep, e.g. `answer: final_answer`.
    Skipped and counted: `empty_line`, `malformed_json`, `missing_field`, `empty_field`, `not_text`
    (lone surrogates, which cannot be written). Raises UserError for contradictory fields.
    """
    pair = (prompt, response)
    if (prompt is None) != (response is None) or (text is not None and prompt is not None):
        raise UserError("jsonl", "fields contradict", "text, or prompt and response")
    given = 0
    for _, line in read_lines(Path(path)):
        if max_documents is not None and given >= max_documents:
            return
        shown = line[:200].decode("utf-8", "replace")
        if not line.strip():
            yield Skipped("empty_line", shown)
            continue
        try:
            row = parse_row(line)
        except ValueError:
            yield Skipped("malformed_json", shown)
            continue
        fields = _fields(row, text, *pair)
        values = [row.get(name) for name in [*fields, *meta.values()]]
        if not all(isinstance(value, str) for value in values[: len(fields)]) or None in values:
            yield Skipped("missing_field", shown)
            continue
        parts = [str(value) for value in values[: len(fields)]]
        if not all(part.strip() for part in parts):
            yield Skipped("empty_field", shown)
            continue
        facts: dict[str, Any] = {name: row[field] for name, field in meta.items()}
        if not _writable("".join(parts), facts):
            yield Skipped("not_text", shown)
            continue
        given += 1
        start = parts[0] + separator if len(parts) == 2 else ""
        yield make(start + parts[-1], source="jsonl", domain="text", prompt=start, meta=facts)


def _fields(
    row: dict[str, Any], text: str | None, prompt: str | None, response: str | None
) -> list[str]:
    if prompt is not None and response is not None:
        return [prompt, response]
    if text is not None:
        return [text]
    return ["text"] if "text" in row else ["prompt", "response"]


def _writable(text: str, facts: dict[str, Any]) -> bool:
    try:
        (text + repr(facts)).encode("utf-8")
        return all(str(value).encode("utf-8") is not None for value in facts.values())
    except UnicodeEncodeError:
        return False
