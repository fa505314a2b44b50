"""The search section: race, stages, front, honesty, heat map, and a search that still runs."""

from pathlib import Path

import pytest

from smelt.core.errors import UserError
from smelt.report.heat import table
from smelt.report.page import render
from smelt.report.records import Coefficients
from tests.report.fake_evaluation import HONESTY, journal, running, searched
from tests.report.test_evaluation_page import text_of
from tests.report.test_page import Reader


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("search") / "searched"
    return render([searched(folder, rows=journal(), honesty=HONESTY)], command="x")


def test_estimates_are_never_the_best(raced: str) -> None:
    rows = journal()
    best = rows[-1]["best"]
    assert best < max(row["fitness"] for row in rows if row["fitness"] is not None)
    # candidates, failed, dropped early, item evaluations (30 * 200 + 30 * 50), saved, start, best
    assert f"0 60 1 30 7,500 38 % {rows[0]['fitness']:.3f} {best:.3f} fitness.jsonl" in text_of(
        raced
    )


def test_both_axes_and_the_stages(raced: str) -> None:
    assert ">candidate</text>" in raced
    assert ">item evaluations</text>" in raced
    assert "faint ones dropped out of the race" in raced
    assert "a dashed line begins a finer stage" in raced


def test_fitness_and_test_stand_side_by_side(raced: str) -> None:
    text = text_of(raced)
    assert "math 0.500 0.700 +20.0 0.500 0.610 +11.0" in text
    assert "code 0.250 0.410 +16.0 0.240 – –" in text
    assert "Warning: Of the 18.0 points gained on the fitness split, 7.3 are not there" in text
    assert "beyond the gain on the test split: +7.3 points (95 % interval: ± 2.1)" in text


def test_likelihoods_are_no_points(tmp_path: Path) -> None:
    honesty = HONESTY | {"measure": "likelihood", "warning": None}
    folder = searched(tmp_path / "searched", rows=journal(), honesty=honesty)
    text = text_of(render([folder], command="x"))
    assert "math 0.500 0.700 +0.200 0.500 0.610 +0.110" in text
    assert "+0.073 (95 % interval: ± 0.021)" in text
    assert "Warning:" not in text


def test_a_front_from_the_record_or_the_journal(tmp_path: Path) -> None:
    rows = journal(40, objectives=2, racing=False)
    for row, values in zip(rows[:4], ([0.9, -9.0], [0.8, -5.0], [0.8, -6.0], [0.95, -9.5]),
                           strict=True):  # fmt: skip
        row["objectives"] = values
    for row in rows[4:]:
        row["objectives"] = [0.1, -50.0] if row["fitness"] is not None else None
    front = [{"candidate": n, "objectives": rows[n]["objectives"]} for n in (0, 1, 3)]
    names = ["score", "length"]
    finished = searched(tmp_path / "a", rows=rows, objectives=names, front=front)
    text = text_of(render([finished], command="x"))
    assert "Pareto front, seed 0: 3 candidates" in text
    assert "candidate score length 3 0.95 -9.5 0 0.9 -9 1 0.8 -5 More is better" in text
    live = running(tmp_path / "b", rows)
    text = text_of(render([live], command="x"))
    assert "Pareto front, seed 0: 3 candidates" in text
    assert "candidate objective 1 objective 2 3 0.95 -9.5 0 0.9 -9 1 0.8 -5" in text


def test_a_running_search(tmp_path: Path) -> None:
    """By the name of its result, or of the folder it works in; the row being written is left."""
    rows = journal(25)
    running(tmp_path / "live", rows)
    for name in ("live", "live.partial"):
        page = render([tmp_path / name], command="x")
        text = text_of(page)
        assert f"running 25 candidates, best so far {rows[-1]['best']:.3f}" in text
        assert "<h3>live</h3>" in page
        assert Reader(page).open == []
    assert text_of(render([searched(tmp_path / "done", rows=rows), tmp_path / "live"],
                          command="x")).count("best so far 0.") == 1  # fmt: skip


def test_a_search_that_has_not_measured_anything_yet(tmp_path: Path) -> None:
    text = text_of(render([running(tmp_path / "live", [journal(1)[0]])], command="x"))
    assert "running 1 candidate, best so far" in text
    work = tmp_path / "empty.partial"
    work.mkdir()
    (work / "journal.jsonl").write_text("")
    assert "running 0 candidates, best so far –" in text_of(render([work], command="x"))


def test_a_damaged_row_of_a_running_search_is_named(tmp_path: Path) -> None:
    work = running(tmp_path / "live", journal(3))
    text = (work / "journal.jsonl").read_text().splitlines(keepends=True)
    (work / "journal.jsonl").write_text(text[0] + "{broken\n" + text[2])
    with pytest.raises(UserError, match=r"journal.jsonl:2"):
        render([work], command="x")


def test_a_folder_that_is_no_search_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / "thing.partial").mkdir()
    (tmp_path / "thing.partial" / "metrics.jsonl").write_text("")
    for name in ("thing", "thing.partial"):
        with pytest.raises(UserError, match=r"no such folder|no run.json"):
            render([tmp_path / name], command="x")


def test_heat_map_has_models_down_and_layers_across() -> None:
    found = table(
        Coefficients(
            rows=["weight of math", "lambda"],
            columns=["layer 0-3 attention", "layer 0-3 mlp", "layer 4-7 mlp", "other"],
            values=[[1.0, -2.0, 0.5, 0.0], [0.25, 0.5, 0.75, 1.0]],
        )
    )
    assert found is not None
    assert found["heads"] == ["0-3", "4-7", "other"]
    assert [label for label, _ in found["body"]] == [
        "weight of math, attention", "weight of math, mlp", "weight of math, other",
        "lambda, attention", "lambda, mlp", "lambda, other",
    ]  # fmt: skip
    cells = dict(found["body"])
    assert [cell["text"] for cell in cells["weight of math, mlp"]] == ["-2.000", "0.500", ""]
    assert cells["weight of math, mlp"][0]["colour"] == "rgba(234,88,12,0.80)"  # the largest
    assert cells["weight of math, mlp"][1]["colour"].startswith("rgba(37,99,235,0.2")
    assert cells["weight of math, attention"][1]["colour"] == "transparent"
    assert cells["lambda, other"][2]["hint"] == "lambda, other, other: 1.0000"


def test_heat_maps_that_do_not_fit() -> None:
    assert table(Coefficients(rows=["a"], columns=["x"], values=[[1.0, 2.0]])) is None
    assert table(Coefficients(rows=[], columns=[], values=[])) is None
    found = table(Coefficients(rows=["a"], columns=["all"], values=[[0.0]]))
    assert found is not None
    assert found["scale"] == []


def test_deep_models_get_colours_without_numbers(raced: str) -> None:
    """24 layers do not fit as numbers: each cell says its own on hover."""
    assert 'class="heat dense"' in raced
    assert raced.count('title="weight of math, attention, layer 7: ') == 1
    assert 'title="density of code, other, other: ' in raced


def test_an_evaluated_search_finds_its_score(tmp_path: Path) -> None:
    """Inputs of an eval are called models.NAME; the score table only NAME."""
    from smelt.core.run import Run

    folder = searched(tmp_path / "s", rows=journal())
    run = Run(tmp_path / "eval", "eval", {}, {"models.best": str(folder)})
    with run:
        run.note(scores={"best": {"math": {"correct": 61, "total": 100}}})
    text = text_of(render([folder, tmp_path / "eval"], command="x"))
    gap = 61 - 100 * journal()[-1]["best"]
    assert f"test split: math 0.610 ({gap:+.1f} points from the fitness)" in text
