import pytest

from smelt.core.interval import wilson
from smelt.report.tables import Column, columns, markdown_table, score_table

SCORES = {
    0: {
        "merged": {"math": {"correct": 60, "total": 100}, "code": {"correct": 30, "total": 50}},
        "expert_a": {"math": {"correct": 50, "total": 100}, "code": {"correct": 20, "total": 50}},
        "expert_b": {"math": {"correct": 40, "total": 100}, "code": {"correct": 25, "total": 50}},
    },
    1: {
        "merged": {"math": {"correct": 70, "total": 100}, "code": {"correct": 35, "total": 50}},
        "expert_a": {"math": {"correct": 52, "total": 100}, "code": {"correct": 20, "total": 50}},
        "expert_b": {"math": {"correct": 40, "total": 100}, "code": {"correct": 0, "total": 0}},
    },
}
ROLES = {"merged": "merge", "expert_a": "expert", "expert_b": "expert"}
GROUPS = {"all": ["math", "code"], "absent": ["nothing"]}


def test_means_seeds_and_pooled_intervals() -> None:
    rows = {row.model: row for row in score_table(SCORES, roles=ROLES, groups=GROUPS)}
    math = rows["merged"].cells[Column("math")]
    assert math.mean == pytest.approx(0.65)
    assert math.seeds == {0: 0.6, 1: 0.7}
    assert (math.low, math.high) == wilson(130, 200)
    group = rows["merged"].cells[Column("all", True)]
    assert group.seeds == {0: pytest.approx(0.6), 1: pytest.approx(0.7)}
    assert math.low < group.low < 0.65 < group.high < math.high
    assert Column("absent", True) not in rows["merged"].cells


def test_a_group_counts_only_seeds_that_have_all_of_it() -> None:
    rows = {row.model: row for row in score_table(SCORES, roles=ROLES, groups=GROUPS)}
    group = rows["expert_b"].cells[Column("all", True)]
    assert group.seeds == {0: pytest.approx(0.45)}
    assert rows["expert_b"].cells[Column("code")].seeds == {0: 0.5}


def test_order_and_best_expert_of_each_column() -> None:
    rows = score_table(SCORES, roles=ROLES, groups=GROUPS)
    assert [row.model for row in rows] == ["expert_a", "expert_b", "merged"]
    assert columns(rows) == [Column("all", True), Column("math"), Column("code")]
    best = {row.model: row.best for row in rows}
    # all: expert_a (0.45 + 0.46) / 2 is above expert_b's 0.45; code: expert_b has 0.5 against 0.4
    assert best["expert_a"] == {Column("math"), Column("all", True)}
    assert best["expert_b"] == {Column("code")}
    assert best["merged"] == frozenset()


def test_markdown_table() -> None:
    rows = score_table(SCORES, roles=ROLES, groups=GROUPS)
    text = markdown_table(rows, only=["math"]).splitlines()
    low, high = wilson(130, 200)
    assert text[0] == "| model | role | math |"
    assert text[1] == "|---|---|--:|"
    assert text[2].startswith("| expert_a | expert | **0.510** [")
    assert text[4] == f"| merged | merge | 0.650 [{low:.3f}, {high:.3f}] |"


def test_markdown_cells_cannot_break_the_table() -> None:
    scores = {0: {"a|b\n<i>": {"x": {"correct": 1, "total": 2}}}}
    assert "| a\\|b &lt;i> |" in markdown_table(score_table(scores))
