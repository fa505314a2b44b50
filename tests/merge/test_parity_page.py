"""The page on parity holds the same table of differences as the tests that allow them."""

from pathlib import Path

from tests.merge.parity_cases import DIFFERENCES

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"


def table() -> list[str]:
    """DIFFERENCES as the page has them."""
    return [f"| {topic} | {' | '.join(cells)} |" for topic, cells in DIFFERENCES.items()]


def test_page_has_the_differences() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index("|---|---|---|---|") + 1
    assert lines[start : start + len(DIFFERENCES)] == table()
    assert not lines[start + len(DIFFERENCES)].startswith("|")
