"""Marks of a recipe: ranges, starts, switches and words; every parameter of every method."""

import random
from typing import Any

import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.merge.method import load_method
from smelt.merge.recipe import parse_recipe
from smelt.merge.values import check_value
from smelt.search.genes import Gene, as_words, find_genes, without_marks


def recipe(method: str, /, **parameters: Any) -> dict[str, Any]:
    models = [{"model": "math"}, {"model": "code"}]
    data = {"merge_method": method, "base_model": "base", "models": models}
    return {**data, "parameters": parameters}


def only(method: str, /, **parameters: Any) -> Gene:
    (gene,) = find_genes(recipe(method, **parameters), "r")
    return gene


@pytest.mark.parametrize("name", registry.names("merge-method"))
def test_every_parameter_of_every_method_can_be_searched(name: str) -> None:
    for parameter in load_method(name).parameters.values():
        for gene in find_genes(recipe(name, **{parameter.key: "search"}), "r"):
            assert (gene.key, gene.name) == (parameter.key, parameter.name)
            assert (gene.model is None) != parameter.per_expert
            for unit in (0.0, 0.31, 0.5, 0.99, 1.0):
                assert check_value("v", gene.value(unit), parameter) == gene.value(unit)
                assert gene.value(gene.unit(gene.value(unit))) == pytest.approx(gene.value(unit))


def test_bounds_are_those_of_the_recipe() -> None:
    gene = only("slerp", t={"search": [-0.5, 1.5]})
    assert [gene.value(unit) for unit in (0.0, 0.25, 1.0)] == [-0.5, 0.0, 1.5]
    assert [gene.unit(value) for value in (-0.5, 0.5, 1.5, -3.0, 3.0)] == [0, 0.5, 1, 0, 1]
    steps = only("karcher", max_iter={"search": [2, 4]})
    assert [steps.value(n / 10) for n in range(11)] == [2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4]
    mixed = recipe("ties", weight={"search": [0, 2]})
    mixed["models"][1]["parameters"] = {"weight": {"search": [0.5, 1]}}
    found = {gene.model: (gene.low, gene.high) for gene in find_genes(mixed, "r")}
    assert found == {0: (0.0, 2.0), 1: (0.5, 1.0)}


def test_no_value_leaves_the_legal_span_by_rounding() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        low = draw.uniform(0, 0.9)
        gene = Gene("density", "density", 0, low, 1.0)
        assert gene.value(1.0) == 1.0
        assert low <= gene.value(1 - 2**-53) <= 1.0


def test_switches_and_words() -> None:
    switch = only("ties", normalize="search")
    assert [switch.value(unit) for unit in (0.0, 0.49, 0.5, 1.0)] == [False, False, True, True]
    assert [switch.unit(value) for value in (False, True)] == [0.25, 0.75]
    rule = only("sce", rule="search")
    units = (0.0, 0.3, 0.34, 0.66, 0.67, 1.0)
    words = ["paper", "paper", "mergekit", "mergekit", "fuseai", "fuseai"]
    assert [rule.value(unit) for unit in units] == words
    assert [rule.number(unit) for unit in (0.0, 0.5, 1.0)] == [0.0, 1.0, 2.0]
    assert str(rule) == "rule (0 paper, 1 mergekit, 2 fuseai)"
    assert str(switch) == "normalize"
    some = only("sce", rule={"search": ["mergekit", "fuseai"]})
    assert some.start == "mergekit"  # the default is not among them
    assert [some.value(unit) for unit in (0.4, 0.6)] == ["mergekit", "fuseai"]
    assert only("sce", rule={"search": ["fuseai", "paper"]}).start is None


def test_starts() -> None:
    data = recipe("ties", weight={"search": [0, 1.5], "start": 0.4}, **{"lambda": "search"})
    genes = find_genes(data, "r")
    assert [(gene.key, gene.model, gene.start) for gene in genes] == [
        ("weight", 0, 0.4),
        ("weight", 1, 0.4),
        ("lambda", None, None),
    ]
    plain = without_marks(data, genes)
    assert plain["parameters"] == {}
    assert [one["parameters"] for one in plain["models"]] == [{"weight": 0.4}] * 2
    assert data["parameters"]["weight"] == {"search": [0, 1.5], "start": 0.4}
    switch = only("ties", normalize={"search": [False, True], "start": False})
    assert switch.start is False


def test_a_parameter_without_default_starts_mid_span() -> None:
    data = recipe("nearswap", t="search")
    genes = find_genes(data, "r")
    span = load_method("nearswap").parameters["t"].span
    assert span is not None
    assert genes[0].start == pytest.approx((span.search_low + span.search_high) / 2)
    assert without_marks(data, genes)["parameters"] == {"t": genes[0].start}
    assert only("nearswap", t={"search": [0.0, 0.5]}).start == 0.25
    assert only("nearswap", t={"search": [0.0, 0.5], "start": 0.1}).start == 0.1


def test_names_that_a_method_also_takes() -> None:
    data = recipe("sce", select_topk={"search": [0.2, 0.4], "start": 0.3})
    genes = find_genes(data, "r")
    assert [gene.key for gene in genes] == ["density"]
    assert without_marks(data, genes)["parameters"] == {"density": 0.3}


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("ties", {"density": {"search": [0.5, 1.2]}}, r"parameters.density: found \[0.5, 1.2\]. "
         r"Expected \[low, high\], numbers within 0 to 1, the span of density"),
        ("ties", {"density": {"search": [0.5, 0.5]}}, r"found \[0.5, 0.5\]"),
        ("ties", {"density": {"search": [0.9, 0.1]}}, r"found \[0.9, 0.1\]"),
        ("ties", {"density": {"search": [0.1]}}, r"found \[0.1\]"),
        ("ties", {"density": {"search": [False, True]}}, r"found \[False, True\]"),
        ("ties", {"density": {"search": [float("nan"), 1]}}, r"found \[nan, 1\]"),
        ("ties", {"density": {"search": 0.5}}, "found 0.5"),
        ("ties", {"density": {"search": None}}, "`search:` without bounds"),
        ("ties", {"density": {"search": [0.1, 1], "begin": 0}}, "unknown key 'begin'"),
        ("ties", {"density": {"search": [0.1, 0.5], "start": 0.7}},
         "density.start: found 0.7. Expected a number within the bounds, 0.1 to 0.5"),
        ("karcher", {"max_iter": {"search": [1.5, 3]}}, "whole numbers within 0 to 1000"),
        ("karcher", {"max_iter": {"search": [1, 3], "start": 1.5}}, "start: found 1.5"),
        ("ties", {"rule": {"search": ["paper"]}}, r"found \['paper'\]. Expected a list of two"),
        ("ties", {"rule": {"search": ["paper", "papre"]}}, r"two or more of \['mergekit', 'paper'"),
        ("ties", {"rule": {"search": ["paper", "paper"]}}, "a list of two or more"),
        ("ties", {"rule": {"search": [["paper"], "paper"]}}, "a list of two or more"),
        ("ties", {"normalize": {"search": [0, 1]}}, r"two or more of \[False, True\]"),
        ("sce", {"rule": {"search": ["paper", "fuseai"], "start": "mergekit"}},
         r"rule.start: found 'mergekit'. Expected one of \['paper', 'fuseai'\]"),
        ("ties", {"weight": [0.1, "search"]}, "`search` inside a list"),
        ("ties", {"weight": [{"value": {"search": [0, 1]}}]}, "`search` inside a list"),
    ],
)  # fmt: skip
def test_refuses(method: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_genes(recipe(method, **parameters), "r")


def test_marks_are_read_where_they_mean_something_and_refused_elsewhere() -> None:
    data = recipe("ties", weight={"search": [0, 1]})
    data["models"][0]["parameters"] = {"density": {"search": [0.2, 0.3]}}
    parse_recipe(as_words(data), "r")
    assert data["models"][0]["parameters"] == {"density": {"search": [0.2, 0.3]}}
    assert as_words(data)["models"][0]["parameters"] == {"density": "search"}
    with pytest.raises(UserError, match=r"parameters.density.*read by `smelt search` alone"):
        parse_recipe(data, "r")
    inside = recipe("ties", weight=[{"filter": "mlp", "value": {"search": [0, 1]}}, {"value": 1}])
    with pytest.raises(UserError, match=r"r: parameters.weight"):
        parse_recipe(as_words(inside), "r")
