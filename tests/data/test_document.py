"""Rows of data files: every field is checked as it is read, and the line is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.data.document import read_jsonl
from smelt.evals.rows import read_items

ROW = {"text": "ab", "id": "0", "source": "s", "domain": "d", "prompt": "a", "meta": {"n": 1}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": 3}, "text is a int"),
        ({"id": 3}, "id is a int"),
        ({"source": None}, "source is a NoneType"),
        ({"domain": ["d"]}, "domain is a list"),
        ({"prompt": None}, "prompt is a NoneType"),
        ({"meta": "m"}, "meta is a str"),
        ({"prompt": "b"}, "the prompt does not begin the text"),
        ({"more": 1}, "not a row of smelt data"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n{json.dumps(ROW | changes)}\n")
    rows = read_jsonl(path)
    assert next(rows).meta == {"n": 1}
    with pytest.raises(UserError, match=rf"rows.jsonl:2: {message}"):
        next(rows)


def test_a_deeply_nested_line_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("[" * 200_000 + "\n")
    with pytest.raises(UserError, match=r"rows.jsonl:1"):
        list(read_jsonl(path))
    for name in registry.names("benchmark"):
        with pytest.raises(UserError, match=r"rows.jsonl:1"):
            read_items(registry.load("benchmark", name), path, None, [], "r")
