"""The page: right numbers, hostile text harmless, nothing fetched, the same bytes twice."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from smelt.core.errors import UserError
from smelt.core.interval import wilson
from smelt.core.run import Run
from smelt.report.page import markdown_scores, render, write_report
from tests.report.fake import CORRECT, HOSTILE, pipeline


@pytest.fixture(scope="module")
def page(demo: Path) -> str:
    return render([demo], command="smelt report demo --out r.html")


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_sections_stand_in_their_order(page: str) -> None:
    found = [a["id"] for tag, a in Reader(page).tags if tag == "section"]
    assert found == [
        "scores", "losses", "search", "lineage", "data", "samples", "export", "cost", "reproduce",
    ]  # fmt: skip
    links = [a["href"] for tag, a in Reader(page).tags if tag == "a"]
    assert links == [f"#{name}" for name in found]


def test_tags_close_and_ids_are_unique(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for name in re.findall(r"url\(#([^)]+)\)", page):
        assert name in ids


def test_numbers_of_the_table(page: str) -> None:
    correct = CORRECT["searched"][0]
    low, high = wilson(2 * correct + 4, 600)
    row = page[page.index("<td>searched <span") :].split("</tr>")[0]
    assert (
        f"<b>{(2 * correct + 4) / 600:.3f}</b><small>{low:.3f} to {high:.3f}</small>"
        f"<small>{correct / 300:.3f} · {(correct + 4) / 300:.3f}</small>"
    ) in row
    best = page[page.index("<td>math <span") :].split("</tr>")[0]
    assert best.count(" best") == 8  # two groups, six benchmarks
    assert " best" not in page[page.index("<td>logic <span") :].split("</tr>")[0]


def test_statements(page: str) -> None:
    text = " ".join("".join(Reader(page).text).split())
    line = "domains mean, against the best expert (math): shown to beat it: searched (+20.0)"
    assert line in text
    line = "domains mean, against the control (fused_control): shown to beat it: fused (+16.7)"
    assert line in text
    assert "combined mean, against the reference (multitask): " in text
    # Two groups: 3 merges and 1 fused model against the expert and the reference; the control.
    assert "18 comparisons were made, with experts, controls and references; none is" in text
    assert "searched beats the best expert (math) on the domains mean by +20.0 points" in text
    assert "task_arithmetic does not beat the best expert (math): it loses on the combined" in text
    assert "Answers that could not be read (counted as wrong): base 36 of 3600." in text


def test_the_gap_from_fitness_to_test(page: str) -> None:
    text = " ".join("".join(Reader(page).text).split())
    # fitness 0.875; test: domains 250 / 300, combined 181 / 300
    assert "domains mean 0.833 (-4.2 points from the fitness)" in text
    assert "combined mean 0.603 (-27.2 points from the fitness)" in text


def test_other_sections(page: str) -> None:
    text = " ".join("".join(Reader(page).text).split())
    assert "duplicate 900" in text
    assert "norm of math is 3 times that of code" in text
    assert "500,000 8.50 0.0123 0.998" in text
    assert "The whole of demo took 1 h 06 min" in text
    # costs of 13 stages a seed: 10 s times 1 .. 26
    assert "58 min 30 s" in text
    assert page.count('<svg role="img"') == 2 + 7 + 1 + 1


def test_hostile_text_is_text(page: str) -> None:
    reader = Reader(page)
    assert {"script", "img", "iframe", "link"}.isdisjoint(tag for tag, _ in reader.tags)
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    assert "".join(reader.text).count(HOSTILE) == 6  # 4 samples, an example dropped in each seed


def test_hostile_names_are_text(tmp_path: Path) -> None:
    root = pipeline(tmp_path / "demo", seeds=(0,))
    path = root / "seed-0" / "eval" / "run.json"
    record = json.loads(path.read_text())
    evil = "</text></svg><script>1</script>$\\frac$"
    record["scores"][evil] = record["scores"].pop("uniform")
    record["roles"][evil] = "merge"
    path.write_text(json.dumps(record))
    reader = Reader(render([root], command=evil))
    assert "script" not in {tag for tag, _ in reader.tags}
    assert reader.open == []
    assert "".join(reader.text).count(evil) >= 4


def test_nothing_is_fetched(page: str) -> None:
    assert "http://" not in page
    assert "https://" not in page
    for _, attrs in Reader(page).tags:
        assert "src" not in attrs
        for name in ("href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#")
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_same_bytes_twice_and_from_anywhere(demo: Path, page: str, tmp_path: Path) -> None:
    moved = tmp_path / "demo"
    shutil.copytree(demo, moved)
    assert render([moved], command="smelt report demo --out r.html") == page
    assert str(demo) not in page


def test_text_of_plots_is_text_in_the_page_colour(page: str) -> None:
    assert re.search(r"<text[^>]*>loss</text>", page)
    assert "#010203" not in page
    assert "<metadata" not in page


def test_one_result_alone_shows_only_its_sections(demo: Path) -> None:
    page = render([demo / "seed-0" / "base"], command="x")
    found = [a["id"] for tag, a in Reader(page).tags if tag == "section"]
    assert found == ["losses", "lineage", "cost", "reproduce"]


def test_stages_given_one_by_one_are_joined_over_seeds(demo: Path) -> None:
    page = render([demo / "seed-0" / "eval", demo / "seed-1" / "eval"], command="x")
    assert "shown to beat it: searched (+20.0)" in page


def test_two_pipelines_are_kept_apart(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "again")
    page = render([demo, tmp_path / "again"], command="x")
    assert "<h3>demo/eval</h3>" in page
    assert "<h3>again/eval</h3>" in page


def test_user_errors(demo: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    copy = tmp_path / "copy"
    shutil.copytree(demo, copy)
    (copy / "seed-0" / "base" / "run.json").write_text("{broken")
    clash = tmp_path / "seed-0" / "eval"
    shutil.copytree(demo / "seed-0" / "eval", clash)
    for runs, message in (
        ([], "no result folder"),
        ([tmp_path / "nowhere"], "no such folder"),
        ([empty], "no run.json"),
        ([copy], "not JSON"),
        ([demo, clash], "a second result 'eval' of seed 0"),
    ):
        with pytest.raises(UserError, match=message):
            render(runs, command="x")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("eval/run.json", '{"key": "k", "verb": "eval", "scores": [1]}', "scores"),
        (
            "eval/run.json",
            '{"key": "k", "verb": "eval", "scores": {"a": {"b": {"correct": 3, "total": 2}}}}',
            "more correct",
        ),
        ("base/metrics.jsonl", '{"step": 1, "loss": 2}\n{"step": 2}\n', r"jsonl:2: loss"),
        ("searched/journal.jsonl", "nonsense\n", r"journal.jsonl:1"),
        ("base/cost.json", '{"seconds": "long"}', "cost.json: seconds"),
    ],
)
def test_damaged_files_are_named(
    demo: Path, tmp_path: Path, file: str, text: str, message: str
) -> None:
    folder = tmp_path / file.split("/")[0]
    shutil.copytree(demo / "seed-0" / folder.name, folder)
    (folder / file.split("/")[1]).write_text(text)
    with pytest.raises(UserError, match=message):
        render([folder], command="x")


def test_a_stage_outside_the_pipeline_is_refused(tmp_path: Path) -> None:
    stages = [{"name": "x", "verb": "train", "seed": 0, "path": "../other"}]
    record = {"verb": "run", "key": "k", "stages": stages}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="outside the folder"):
        render([tmp_path], command="x")


def test_samples_are_not_read_from_outside(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    shutil.copytree(demo / "seed-0" / "eval", folder)
    (tmp_path / "secret.jsonl").write_text('{"correct": true, "answer": "SECRET"}\n')
    record = json.loads((folder / "run.json").read_text())
    record["scores"]["../.."] = {"secret": {"correct": 1, "total": 1}}
    (folder / "run.json").write_text(json.dumps(record))
    assert "SECRET" not in render([folder], command="x")


def test_a_foreign_file_is_not_replaced(demo: Path, tmp_path: Path) -> None:
    stage, out = demo / "seed-0" / "data", tmp_path / "page.html"
    out.write_text("my notes")
    with pytest.raises(UserError, match="did not write"):
        write_report([stage], out, command="x")
    assert out.read_text() == "my notes"
    out.unlink()
    write_report([stage], out, command="x")
    first = out.read_bytes()
    write_report([stage], out, command="x")
    assert out.read_bytes() == first
    with pytest.raises(UserError, match=r"\.html"):
        write_report([stage], tmp_path / "page.txt", command="x")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_markdown_of_a_pipeline(demo: Path) -> None:
    text = markdown_scores([demo], only=["domains"]).splitlines()
    assert text[0] == "| model | role | domains mean |"
    assert text[2].startswith("| base | base | 0.407 [")
    with pytest.raises(UserError, match="no eval result"):
        markdown_scores([demo / "seed-0" / "base"])


def _texts(folder: Path, seed: int, bits: dict[str, float], **notes: Any) -> Path:
    cells = {
        model: {"prose": {"bits_per_byte": value, "perplexity": 2**value, "bytes": 9, "tokens": 3}}
        for model, value in bits.items()
    }
    run = Run(folder, "eval", {"seed": seed}, {}, seed=seed)
    with run:
        run.note(scores=notes.pop("scores", {m: {} for m in bits}), likelihood=cells, **notes)
    return folder


def test_likelihood_alone_is_a_table(tmp_path: Path) -> None:
    """An eval of texts only has no score table, and one of bits per byte, over seeds."""
    runs = [
        _texts(tmp_path / str(seed) / "eval", seed, {"b": 2.0 + seed, "a|x": 1.5},
               roles={"b": "base", "a|x": "merge"})
        for seed in (0, 1)
    ]  # fmt: skip
    text = render(runs, command="c")
    reader = Reader(text)
    assert reader.open == []
    assert "<b>2.5000</b><small>perplexity 6.000</small><small>2.0000 · 3.0000</small>" in text
    assert text.index("<td>b <span") < text.index("<td>a|x <span")  # by role
    assert "Accuracy, mean over seed" not in text
    assert markdown_scores(runs) == (
        "| model | role | prose, bits per byte |\n|---|---|--:|\n"
        "| b | base | 2.5000 |\n| a\\|x | merge | 1.5000 |"
    )


def test_likelihood_beside_scores(tmp_path: Path) -> None:
    counts = {"m": {"math": {"correct": 3, "total": 4}}, "n": {}}
    run = _texts(tmp_path / "eval", 0, {"m": 1.25}, scores=counts)
    text = render([run], command="c")
    assert "<b>0.750</b>" in text
    assert "<b>1.2500</b>" in text
    table, bits = markdown_scores([run]).split("\n\n")
    assert "| m |  | 0.750" in table
    assert "| m |  | 1.2500 |" in bits
