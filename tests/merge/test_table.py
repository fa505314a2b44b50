"""The table of merge methods: what docstrings say, who stands where."""

import ast

import pytest

from smelt.core import registry
from smelt.merge import table
from smelt.merge.method import load_method

NAMES = registry.names("merge-method")
ROWS = {row.name: row for row in table.rows()}


def test_every_method_is_in_one_group() -> None:
    assert sorted(ROWS) == NAMES
    listed = [name for names in table.GROUPS.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) <= set(NAMES), "a group names a method that is no more"


@pytest.mark.parametrize("name", NAMES)
def test_every_method_says_when_and_on_what_evidence(name: str) -> None:
    row = ROWS[name]
    assert row.idea[0].islower()
    assert not row.idea.endswith(".")
    assert row.source
    assert 20 < len(row.when) < 200
    assert 20 < len(row.evidence) < 400
    for word in ("for", "against"):
        assert word in row.evidence.lower(), "evidence has two sides"
    for text in (row.idea, row.when, row.evidence):
        assert "|" not in text
        assert "\n" not in text


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_method_has_a_meaning(name: str) -> None:
    meanings = table.meanings(name)
    for key, parameter in load_method(name).parameters.items():
        if parameter.span is not None and not parameter.span.boolean:
            assert meanings[key].endswith("."), key


def test_columns() -> None:
    assert (ROWS["ties"].models, ROWS["ties"].base) == ("1 or more", "needed")
    assert (ROWS["slerp"].models, ROWS["slerp"].base) == ("2", "counts as the first model")
    assert (ROWS["nuslerp"].models, ROWS["nuslerp"].base) == ("2", "optional")
    assert (ROWS["linear"].models, ROWS["linear"].base) == ("1 or more", "not used")
    assert ROWS["regmean"].base == "not used; `gram` statistics of each model"
    assert ROWS["ties"].source == "arXiv:2306.01708"
    assert ROWS["ties"].idea.startswith("trim each task vector")
    assert {"density", "rescale", "rule"} < set(ROWS["ties"].parameters)
    assert ROWS["task_arithmetic"].when.startswith("the default")


def test_sections_end_at_the_next_label_or_an_empty_line() -> None:
    doc = (
        "X: idea. (arXiv:1)\n\nProse. When: not a label.\n\nMemory of each thread: much.\n"
        "When: it rains,\n  or snows.\nEvidence: for: a paper.\nAgainst: nobody.\n\nMore prose."
    )
    assert table.sections(doc) == {
        "Memory of each thread": "much.",
        "When": "it rains, or snows.",
        "Evidence": "for: a paper. Against: nobody.",
    }


def test_a_method_without_a_group_is_listed_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "GROUPS", {"Some": ("ties",)})
    groups = {row.name: row.group for row in table.rows()}
    assert groups.pop("ties") == "Some"
    assert set(groups.values()) == {table.OTHERS}


def test_texts_below_types_are_found() -> None:
    body = ast.parse('A = int\n"""One\ntwo."""\nB = 1\nC: int = 2\n"""Three."""\n').body
    assert dict(table._described(body)) == {"A": "One two.", "C": "Three."}
