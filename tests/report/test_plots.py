import pytest

from smelt.report import lineage, plots


def test_thin_keeps_the_mean_and_the_limit() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    kept, stride = plots.thin(points, 250)
    assert stride == 4
    assert len(kept) == 250
    assert kept[0] == (1.5, 0.5)
    assert plots.thin(points[:3], 250) == (points[:3], 1)
    assert plots.thin([]) == ([], 1)


def test_levels_follow_the_longest_way() -> None:
    arrows = [(0, 1), (1, 2), (0, 2), (2, 3)]
    assert lineage.levels(5, arrows) == [0, 1, 2, 3, 0]


def test_a_circle_in_damaged_records_ends() -> None:
    assert max(lineage.levels(2, [(0, 1), (1, 0)])) <= 1


def test_colours_are_given_to_any_number_of_seeds() -> None:
    svg = plots.losses("x", {seed: [(0.0, 1.0), (1.0, 0.5)] for seed in range(11)}, [])
    assert "seed 10" in svg


@pytest.mark.parametrize("label", ["$x$ and $", "日本", "a & b <c>"])
def test_any_name_can_be_drawn(label: str) -> None:
    svg = plots.scores("x", [(label, 0.5, 0.4, 0.6, "merge")], "accuracy")
    escaped = label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f">{escaped}</text>" in svg
