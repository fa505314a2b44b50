"""Scores with all that new records say, comparisons, combinatorial gains: in numbers by hand."""

from pathlib import Path
from typing import Any

import pytest

from smelt.core.interval import mean_interval, wilson
from smelt.report.details import cautions, details_of, subjects_of
from smelt.report.evaluated import rows_of, same_items
from smelt.report.page import markdown_scores, render
from smelt.report.records import EvalRecord, Input
from smelt.report.sections.combined import gained
from smelt.report.sections.compare import compared, holm
from smelt.report.stages import Stage, by_name, gather
from smelt.report.tables import Column
from tests.report.fake_evaluation import COMPARISONS, GAINS, evaluation, gain, scores
from tests.report.test_page import Reader


def group(*folders: Path) -> list[tuple[Stage, EvalRecord]]:
    (found,) = by_name(gather(list(folders)), EvalRecord).values()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluation(tmp_path_factory.mktemp("evaluation") / "eval")


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return render([folder], command="x")


def text_of(page: str) -> str:
    return " ".join(" ".join(Reader(page).text).split())


def test_sections_and_tags(page: str) -> None:
    reader = Reader(page)
    found = [a["id"] for tag, a in reader.tags if tag == "section"]
    assert found[:3] == ["scores", "compare", "combined"]
    assert reader.open == []
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_partial_credit_keeps_its_recorded_interval(folder: Path) -> None:
    rows = {row.model: row for row in rows_of(group(folder))}
    assert rows["merged"].cells[Column("drop")].limits == (0.5, 0.41, 0.58)
    assert rows["merged"].cells[Column("logic")].limits == (0.7, *wilson(70, 100))


def test_partial_credit_over_seeds_joins_the_intervals(tmp_path: Path) -> None:
    other = scores()
    other["merged"]["drop"] |= {"accuracy": 0.7, "correct": 28.0, "low": 0.6, "high": 0.81}
    folders = [evaluation(tmp_path / "0" / "eval"),
               evaluation(tmp_path / "1" / "eval", 1, scores=other)]  # fmt: skip
    rows = {row.model: row for row in rows_of(group(*folders))}
    cell = rows["merged"].cells[Column("drop")]
    low, high = mean_interval([(0.5, 0.41, 0.58), (0.7, 0.6, 0.81)])
    assert cell.limits == pytest.approx((0.6, low, high))
    assert rows["merged"].cells[Column("logic")].limits == (0.7, *wilson(140, 200))


def test_where_lower_is_better(folder: Path, page: str) -> None:
    """The least perplexity is the best expert's, and no sentence calls it points of accuracy."""
    column = Column("lm_eval:wikitext")
    rows = {row.model: row for row in rows_of(group(folder))}
    assert rows["coder"].cells[column].limits == pytest.approx((44.5, 43.0, 46.0))
    assert column in rows["coder"].best
    assert column not in rows["thinker"].best
    assert "lower is better" in page
    assert "on the lm_eval:wikitext by" not in page
    assert "44.500 [43.000, 46.000]" in markdown_scores([folder]).replace("*", "")


def test_a_group_with_another_figure_has_no_mean(tmp_path: Path) -> None:
    groups = {"odd": ["logic", "lm_eval:wikitext"], "even": ["logic", "drop"]}
    rows = rows_of(group(evaluation(tmp_path / "eval", groups=groups)))
    assert all(Column("odd", True) not in row.cells for row in rows)
    assert rows[0].cells[Column("even", True)].mean == pytest.approx((0.3 + 0.5) / 2)


def test_details(folder: Path, page: str) -> None:
    found = {(one.model, one.benchmark): one for one in details_of(group(folder))}
    code = found["coder", "humaneval"]
    assert (code.form, code.more) == ("base, 4 shots", "isolation: bubblewrap")
    assert code.pass_at == {"1": 0.5, "10": 0.8125}
    assert found["merged", "drop"].readings == {"exact_match": 0.225}
    assert found["merged", "drop"].reasons == {"partly": 20, "wrong_answer": 9, "empty": 2}
    assert found["merged", "logic"].length == 41.25
    row = page[page.index('<td>merged</td><td class="text">drop') :].split("</tr>")[0]
    assert "exact match 0.225" in row
    assert "partly 20, wrong answer 9, empty 2" in row
    assert "<td>12.0</td>" in row
    heads = page[page.index("tokens per answer") :].split("</tr>")[0]
    assert "pass@1</th>" in heads
    assert heads.index("pass@1<") < heads.index("pass@10<")


def test_counts_are_summed_and_shares_averaged_over_seeds(tmp_path: Path) -> None:
    other = scores()
    other["merged"]["drop"] |= {"rules": {"exact_match": 0.425}, "length": 20.0, "unfinished": 5}
    folders = [evaluation(tmp_path / "0" / "eval"),
               evaluation(tmp_path / "1" / "eval", 1, scores=other)]  # fmt: skip
    found = {(one.model, one.benchmark): one for one in details_of(group(*folders))}
    drop = found["merged", "drop"]
    assert drop.readings["exact_match"] == pytest.approx(0.325)
    assert (drop.length, drop.unfinished, drop.answers) == (16.0, 5, 80)
    assert drop.reasons["partly"] == 40


def test_what_makes_scores_hard_to_compare_is_said(folder: Path) -> None:
    lines = cautions(details_of(group(folder)))
    assert lines[0].startswith("Answers that could not be read (counted as wrong): coder 2 of ")
    assert lines[1].startswith("Answers cut off by their budget of tokens: coder 10 of ")
    assert lines[2] == (
        "Not asked of all models in the same way: drop, humaneval, logic, logic+trace, trace: "
        "base, 4 shots (coder); chat, 0 shots (thinker, merged, joined)."
    )


def test_subjects(folder: Path) -> None:
    (part,) = subjects_of(details_of(group(folder)))
    assert part.benchmark == "logic"
    assert part.models == ["coder", "thinker", "merged", "joined"]
    assert part.rows == [("logic", 50, [0.5] * 4), ("logic, with a number", 50, [0.25] * 4)]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_comparisons_of_one_seed(folder: Path, page: str) -> None:
    found = compared(group(folder))
    assert [row.text for row in found] == ["merged is better", "not told apart",
                                           "thinker is better"]  # fmt: skip
    assert found[0].seeds[0][2] == pytest.approx(3 * 0.00021)
    text = text_of(page)
    assert "thinker to merged logic+trace +25.0 +13.0 to +36.0 merged is better 9 34" in text
    assert "3 comparisons were made; “p (Holm)” is corrected for that number" in text


def test_an_interval_without_the_test_is_not_enough(tmp_path: Path) -> None:
    rows = [COMPARISONS[0] | {"p": 0.07}]
    (found,) = compared(group(evaluation(tmp_path / "eval", comparisons=rows)))
    assert found.text == "not told apart"


def test_comparisons_need_the_seeds_to_agree(tmp_path: Path) -> None:
    """+25, and in the other seed +5: the items say yes, two seeds so far apart say nothing."""
    second = [COMPARISONS[0] | {"difference": 0.05, "low": -0.02, "high": 0.12, "p": 0.3}]
    folders = [evaluation(tmp_path / "0" / "eval", comparisons=COMPARISONS[:1]),
               evaluation(tmp_path / "1" / "eval", 1, comparisons=second)]  # fmt: skip
    (found,) = compared(group(*folders))
    assert found.difference == pytest.approx(0.15)
    low, high = mean_interval([(0.25, 0.13, 0.36), (0.05, -0.02, 0.12)])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert low > 0
    assert found.text == "not told apart"
    again = [evaluation(tmp_path / "2" / "eval", comparisons=COMPARISONS[:1]),
             evaluation(tmp_path / "3" / "eval", 1, comparisons=COMPARISONS[:1])]  # fmt: skip
    assert compared(group(*again))[0].text == "merged is better"


def test_the_same_items_asked_again_say_nothing_new(tmp_path: Path) -> None:
    """Three seeds of models that do not depend on the seed: no more is known than from one."""
    slight = [COMPARISONS[0] | {"difference": 0.02, "low": -0.01, "high": 0.05, "p": 0.2}]
    folders = [evaluation(tmp_path / str(seed) / "eval", seed, items=0, comparisons=slight,
                          combined=[gain("merged", "logic+trace", 0.02, -0.01, 0.05)])
               for seed in range(3)]  # fmt: skip
    (found,) = compared(group(*folders))
    assert (found.low, found.high) == pytest.approx((-0.01, 0.05))
    assert found.text == "not told apart"
    (row,) = gained(group(*folders))
    assert (row.low, row.high, row.verdict) == (pytest.approx(-0.01), pytest.approx(0.05), "even")
    rows = {row.model: row for row in rows_of(group(*folders))}
    assert rows["merged"].cells[Column("drop")].limits == pytest.approx((0.5, 0.41, 0.58))
    assert rows["merged"].cells[Column("logic")].limits == pytest.approx((0.7, *wilson(70, 100)))


def test_repeated_comparisons_need_their_p(tmp_path: Path) -> None:
    rows = [COMPARISONS[0] | {"p": 0.07}]
    folders = [evaluation(tmp_path / str(n) / "eval", n, items=0, comparisons=rows)
               for n in (0, 1)]  # fmt: skip
    assert compared(group(*folders))[0].text == "not told apart"


def test_seeds_that_share_one_of_two_files_share_items(folder: Path) -> None:
    def seed(*files: str) -> EvalRecord:
        inputs = {f"benchmarks.{n}": Input(path=file, sha256=file) for n, file in enumerate(files)}
        return EvalRecord(verb="eval", key="k", inputs=inputs)

    def same(*records: EvalRecord) -> bool:
        return same_items([(group(folder)[0][0], record) for record in records])

    assert not same(seed("a", "b"), seed("c", "d"))
    assert same(seed("a", "b"), seed("a", "d"))
    assert same(seed("a"), seed())  # lm-eval's tasks name no file


def test_gains(folder: Path, page: str) -> None:
    found = gained(group(folder))
    assert [(row.model, row.pair, row.verdict) for row in found] == [
        ("merged", "logic+trace", "beats"), ("merged", "lists+trace", "even"),
        ("merged", "lists+logic", "loses"), ("joined", "logic+trace", "even"),
    ]  # fmt: skip
    text = text_of(page)
    assert (
        "merged : better than every expert on 1 of 3 pairs, worse than the best on 1; "
        "mean gain +7.0 points."
    ) in text
    assert "logic+trace +25.0 +12.0 to +37.0 0.550 0.300 thinker logic 0.700, trace 0.720" in text
    assert page.count("gain over the best expert, points</text>") == 2  # a plot for each model


def test_gains_over_seeds(tmp_path: Path) -> None:
    second = [GAINS[0] | {"gain": 0.05, "low": -0.1, "high": 0.2, "best_expert": "coder",
                          "accuracy": 0.65, "twins": {"logic": 0.9, "trace": 0.72}}]  # fmt: skip
    folders = [evaluation(tmp_path / "0" / "eval", combined=GAINS[:1]),
               evaluation(tmp_path / "1" / "eval", 1, combined=second)]  # fmt: skip
    (row,) = gained(group(*folders))
    assert row.gain == pytest.approx(0.15)
    assert (row.low, row.high) == mean_interval([(0.25, 0.12, 0.37), (0.05, -0.1, 0.2)])
    assert row.experts == ["thinker", "coder"]
    assert row.accuracy == pytest.approx(0.6)
    assert row.twins == {"logic": pytest.approx(0.8), "trace": 0.72}
    assert row.seeds == {0: 0.25, 1: 0.05}
    # 0.15 +- 12.7 * 0.1 over two seeds: the items alone would say better.
    assert row.low > 0
    assert row.verdict == "even"
    again = [evaluation(tmp_path / "2" / "eval", combined=GAINS[:1]),
             evaluation(tmp_path / "3" / "eval", 1, combined=GAINS[:1])]  # fmt: skip
    assert gained(group(*again))[0].verdict == "beats"


def test_sample_answers_of_every_kind(page: str) -> None:
    text = text_of(page)
    for words in (
        "right right 4 tokens",
        "partly partly 1 token prompt",
        "wrong no_number 256 tokens, cut off by its budget",
        "partly measured",
    ):
        assert words in text


def test_many_pairs_are_folded_and_drawn_for_some_models(tmp_path: Path) -> None:
    many = [
        GAINS[0] | {"model": f"m{number:02}", "pair": "<a>+" + "b" * 40} for number in range(30)
    ]
    page = render([evaluation(tmp_path / "eval", combined=many)], command="x")
    assert page.count("gain over the best expert, points</text>") == 6
    assert "24 more models are in the table" in page
    assert '<details class="card">\n<summary>Every model on every pair (30)' in page
    assert "<a>" not in page


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"combined": [{"model": "m"}]}, "combined.0.pair"),
        ({"comparisons": [{**COMPARISONS[0], "p": "small"}]}, "comparisons.0.p"),
        ({"scores": {"m": {"g": {"correct": 3.5, "total": 3}}}}, "more correct"),
    ],
)
def test_damaged_notes_are_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    from smelt.core.errors import UserError

    with pytest.raises(UserError, match=message):
        render([evaluation(tmp_path / "eval", **changed)], command="x")
