"""The page and the tables of `smelt inspect`, from a record written by hand."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from smelt.report import inspect_page, inspected
from smelt.report.inspect_table import print_record
from tests.report.test_page import Reader

HOSTILE = "x<script>[red]"


def cell(elements: int, **values: Any) -> dict[str, Any]:
    return {
        "tensors": 2, "elements": elements, "cosine": [0.25], "norm_ratio": [2.0],
        "moved": [0.04, 0.02], "changed": [1.0, 0.5], "same_sign": [0.6], "overlap": [0.5],
    } | values  # fmt: skip


def record(**changes: Any) -> dict[str, Any]:
    """Two experts of a base, two layers; the second is called something hostile."""
    facts = {
        "architecture": "llama", "layers": 2, "parameters": 1234567, "bytes": 2469134,
        "dtype": "bfloat16", "vocabulary": 320, "head": "tied",
    }  # fmt: skip
    layers = [
        {"layer": None, "block": "embedding"} | cell(5, cosine=[None], same_sign=[None]),
        {"layer": 0, "block": "attention"} | cell(10, cosine=[-0.5], overlap=[0.0]),
        {"layer": 0, "block": "norm"} | cell(1, cosine=[0.9]),
        {"layer": 1, "block": "attention"} | cell(10),
        {"layer": None, "block": "norm"} | cell(1),
    ]
    depths = [{"depth": None, "block": "embedding"} | cell(5, cosine=[None], same_sign=[None])]
    depths += [
        {"depth": depth, "block": "attention"} | cell(10, cosine=[value])
        for depth, value in (("early", -0.5), ("late", 0.25))
    ]
    names = ["base", "math", HOSTILE, "odd"]
    family = {
        "models": names[:3], "base": "base", "confidence": "high", "evidence": ["weights share"],
    }  # fmt: skip
    alone = {"models": ["odd"], "base": None, "confidence": "none", "evidence": ["other shapes"]}
    cosines = [[1.0, 0.998, 0.997, None]] * 3 + [[None, None, None, 1.0]]
    return {
        "models": names, "base": "base", "compared": names[1:3], "pairs": [names[1:3]],
        "num_layers": 2, "facts": dict.fromkeys(names, facts), "reference": "base",
        "refused": {"odd": "hidden_size is 64, expected 32"},
        "differences": ["rope_theta differs: 1 in math, 2 in base"],
        "left_out": {"model.x": "no floats"},
        "ancestry": {
            "families": [family, alone], "names": names, "cosines": cosines, "matrices": 14,
            "notes": ["perhaps distant relatives"],
        },
        "layers": layers, "depths": depths, "total": cell(27),
    } | changes  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    return inspect_page.render(record(), command="smelt inspect a")


def text_of(page: str) -> str:
    return " ".join("".join(Reader(page).text).split())


def test_the_page_is_sound_and_fetches_nothing(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    assert {"script", "img", "iframe", "link", "a"}.isdisjoint(tag for tag, _ in reader.tags)
    assert not re.search(r"https?://|@import|url\(", page)
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in page
    assert "".join(reader.text).count(HOSTILE) >= 6  # hostile names are text
    assert [a["id"] for tag, a in reader.tags if tag == "section"] == [
        "models", "ancestry", "each", "pairs", "meaning",
    ]  # fmt: skip


def test_words_of_the_page(page: str) -> None:
    text = text_of(page)
    for words in (
        "smelt inspect a",
        "odd cannot be merged with base: hidden_size is 64, expected 32",
        "rope_theta differs: 1 in math, 2 in base",
        "not compared: model.x: no floats",
        "share a base; base looks like it (confidence: high)",
        "odd is related to no other of these models",
        "perhaps distant relatives",
        "2 tensors with 27 elements in each of math",
        "median over 14 matrices",
        "1,234,567",
    ):
        assert words in text


def colours(page: str, title: str) -> list[str]:
    return re.findall(rf'<td title="{title}[^"]*" style="background:([^"]+)"', page)


def test_heat_maps_have_a_cell_for_each_layer_and_block(page: str) -> None:
    pairs = page[page.index('id="pairs"') :]
    maps = re.findall(r"<figure.*?</figure>", pairs, re.DOTALL)
    assert [re.findall(r"<figcaption>(.*?)<", one)[0] for one in maps] == [
        "cosine", "norm ratio", "same sign", "overlap",
    ]  # fmt: skip
    for one in maps:
        rows = re.findall(r"<tr><th>(\w+)</th>(.*?)</tr>", one, re.DOTALL)
        assert [(name, row.count("<td")) for name, row in rows] == [("attention", 2), ("norm", 2)]
        assert one.count("<td></td>") == 1  # layer 1 has no norm
    cosine = maps[0]
    # The scale is that of attention and MLP: 0.5. Orange below 0, blue above, norms clamped.
    assert colours(cosine, "layer 0 attention: -0.50") == ["rgba(234,88,12,0.60)"]
    assert colours(cosine, r"layer 1 attention: \+0.25") == ["rgba(37,99,235,0.30)"]
    assert colours(cosine, r"layer 0 norm: \+0.90") == ["rgba(37,99,235,0.60)"]
    assert re.search(r"<span>-0.50</span><i class=\"two\"></i><span>\+0.50</span>", cosine)
    assert colours(maps[3], "layer 0 attention: 0.0%") == ["rgba(37,99,235,0.00)"]
    assert re.search(r"<span>0.0%</span><i class=\"one\"></i><span>100%</span>", maps[3])
    assert page.count("<figure") == 2 * 2 + 4


def test_ratios_are_as_strong_both_ways() -> None:
    ratio = inspected.RATIO
    assert inspect_page.strength(ratio, 2.0, 2.0) == -inspect_page.strength(ratio, 0.5, 2.0) == 0.5
    assert inspect_page.strength(ratio, 1.0, 2.0) == 0.0
    assert inspect_page.strength(ratio, None, 2.0) == 0.0
    assert inspect_page.strength(ratio, 0.0, 2.0) == -1.0


def test_noise_stays_pale() -> None:
    cells = [{"block": "mlp", "cosine": [0.001, -0.002]}]
    assert inspect_page.scale_of(inspected.TASK_COSINE, cells) == 0.1
    assert inspect_page.scale_of(inspected.MOVED, [{"block": "mlp", "moved": [0.3, None]}]) == 0.3


def test_nothing_compared(page: str) -> None:
    empty = {"total": None, "layers": [], "depths": [], "pairs": [], "compared": ["math"]}
    found = inspect_page.render(record(**empty), command="x")
    assert "No two of these models can be compared" in found
    assert 'id="pairs"' not in found
    assert "No two of these" not in page


def printed(width: int, **options: Any) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, markup=False, highlight=False)
    print_record(record(), console, **options)
    return stream.getvalue()


def test_tables_hold_the_numbers() -> None:
    text = printed(120)
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "early attention -0.50 2.00 60% 50%" in rows
    assert "early attention 4.0% 100% 2.0% 50%" in rows
    assert "embedding – 2.00 – 50%" in rows
    assert "all +0.25 2.00 60% 50%" in rows
    assert "odd cannot be merged with base: hidden_size is 64, expected 32" in rows
    assert HOSTILE in text  # no markup is read out of names
    assert "layer 1 attention" not in text
    layers = printed(120, layers=True)
    assert "layer 1 attention +0.25 2.00 60% 50%" in [
        " ".join(line.split()) for line in layers.splitlines()
    ]
    assert "early" not in layers


def test_narrow_terminals_show_every_number() -> None:
    rows = [" ".join(line.split()) for line in printed(60).splitlines()]
    assert "early attention -0.50 2.00 60% 50%" in rows
    assert "early attention 4.0% 100%" in rows
    assert "early attention 2.0% 50%" in rows


def test_weights_without_a_base() -> None:
    cells = {"norm": [3.0, 4.0], "distance": [0.1], "differing": [0.7]}
    total = cell(27) | cells
    layers = [{"layer": 0, "block": "mlp"} | cell(10) | cells]
    depths = [{"depth": "middle", "block": "mlp"} | cell(10) | cells]
    found = record(base=None, total=total, layers=layers, depths=depths)
    text = text_of(inspect_page.render(found, command="x"))
    assert "differing share of elements that are not equal" in text
    assert "moved" not in text
    stream = io.StringIO()
    print_record(found, Console(file=stream, width=120, markup=False))
    assert "+0.25 2.00 0.10 70%" in " ".join(stream.getvalue().split())
