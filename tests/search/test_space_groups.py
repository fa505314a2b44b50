"""Groups, components, smooth depth; carrying a genome from one granularity to another."""

import itertools
import random
from typing import Any

import pytest

from smelt.core.errors import UserError
from smelt.merge.parameters import resolve
from smelt.search.genes import find_genes, without_marks
from smelt.search.groups import filters, group_tensors, mixes
from smelt.search.space import Space, at_values, carry, space_of, stages

PARTS = ["self_attn.q_proj", "self_attn.q_norm", "mlp.up_proj", "input_layernorm"]
NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{n}.{part}.weight" for n in range(12) for part in PARTS),
    "model.norm.weight",
    "vision_model.layers.1.mlp.weight",  # holds `model.layers.1.`, and is in no layer
]
WAYS = [
    {"layer_groups": groups, "components": components, "smooth": smooth}
    for groups in (1, 3, 5, "all")
    for components in (False, True)
    for smooth in (False, True)
]
EXPERTS = ["math", "code"]


def space(layer_groups: Any, *, components: bool = False, smooth: bool = False) -> Space:
    data: dict[str, Any] = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "math"}, {"model": "code", "parameters": {"density": "search"}}],
        "parameters": {"weight": "search", "lambda": "search", "rule": "search"},
    }
    genes = find_genes(data, "r")
    return space_of(
        without_marks(data, genes), genes, NAMES, layer_groups, "r",
        components=components, smooth=smooth,
    )  # fmt: skip


def genome_of(of: Space, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [draw.random() for _ in range(of.size)]


def values_of(of: Space, genome: list[float]) -> dict[str, dict[str, Any]]:
    plain = {"weight": [0.5, 0.5], "density": [1.0, 1.0], "lambda_": 1.0, "rule": "mergekit"}
    return {name: of.parameters(genome, name, plain, EXPERTS) for name in NAMES}


def test_components_cut_each_group() -> None:
    groups = group_tensors(NAMES, 3, "r", components=True)
    assert [group.label for group in groups][:4] == [
        "layer 0-3 attention", "layer 0-3 mlp", "layer 0-3 other", "layer 4-7 attention",
    ]  # fmt: skip
    assert groups[0].tensors == {f"model.layers.{n}.self_attn.q_proj.weight" for n in range(4)}
    assert groups[-1].label == "other"
    assert groups[-1].tensors == {NAMES[0], *NAMES[-2:]}
    whole = group_tensors(NAMES, 1, "r", components=True)
    assert [group.label for group in whole] == ["all attention", "all mlp", "all other"]
    assert [len(group.tensors) for group in whole] == [12, 12, 27]
    assert set().union(*(group.tensors for group in whole)) == set(NAMES)


def test_a_component_that_a_model_lacks_has_no_gene() -> None:
    names = [name for name in NAMES if "self_attn" not in name]
    labels = [group.label for group in group_tensors(names, 1, "r", components=True)]
    assert labels == ["all mlp", "all other"]


def test_smooth_values_run_between_the_middles_of_groups() -> None:
    made = space(3, smooth=True)  # middles at 1.5, 5.5, 9.5
    genome = [0.0] * made.size
    genome[8:12] = [0.2, 0.6, 0.4, 0.9]  # of the third gene, `lambda` (0 to 2)
    values = values_of(made, genome)
    found = [values[f"model.layers.{n}.mlp.up_proj.weight"]["lambda_"] for n in range(12)]
    knots = [(1.5, 0.4), (5.5, 1.2), (9.5, 0.8)]
    for layer, value in enumerate(found):
        if layer < 1.5 or layer > 9.5:
            expected = knots[0][1] if layer < 5 else knots[2][1]
        else:
            (a, low), (b, high) = knots[:2] if layer <= 5.5 else knots[1:]
            expected = low + (layer - a) / (b - a) * (high - low)
        assert value == pytest.approx(expected)
    assert values["model.norm.weight"]["lambda_"] == pytest.approx(1.8)


def test_smooth_leaves_choices_in_steps() -> None:
    made = space(3, smooth=True)
    place = [gene.key for gene in made.genes].index("rule") * 4
    genome = [0.5] * made.size
    genome[place : place + 4] = [0.1, 0.9, 0.1, 0.9]
    values = values_of(made, genome)
    found = [values[f"model.layers.{n}.mlp.up_proj.weight"]["rule"] for n in range(12)]
    assert found == ["mergekit"] * 4 + ["paper"] * 4 + ["mergekit"] * 4
    settings = made.recipe(genome)["parameters"]
    for layer in range(12):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        assert resolve(settings["rule"], name, 0.0) == found[layer]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_recipe_says_what_the_genome_says(way: dict[str, Any]) -> None:
    made = space(**way)
    genome = genome_of(made)
    plain, values = made.recipe(genome), values_of(made, genome)
    own = [entry["parameters"] for entry in plain["models"]]
    for name in NAMES:
        found = values[name]
        for key in ("lambda", "rule"):
            setting = plain["parameters"][key]
            assert found["lambda_" if key == "lambda" else key] == resolve(setting, name, 0.0)
        assert found["weight"] == [resolve(one["weight"], name, 0.0) for one in own]
        assert found["density"] == [1.0, resolve(own[1]["density"], name, 0.0)]
    distinct = {repr(values[name]) for name in NAMES}
    assert len(distinct) > 1 or way["layer_groups"] == 1


def test_filters_are_few() -> None:
    def texts(layer_groups: Any, **ways: bool) -> list[str]:
        names = [name for name in NAMES if "vision" not in name and "q_norm" not in name]
        groups = group_tensors(names, layer_groups, "r", components=ways.get("components", False))
        return [text for text, _ in filters(mixes(groups, smooth=ways.get("smooth", False)))]

    assert texts(1) == ["*"]
    assert texts(1, components=True) == [".mlp.", ".self_attn.", "*"]
    assert texts("all") == [*(f"model.layers.{n}." for n in range(12)), "*"]
    three = texts("all", components=True)
    assert len(three) == 12 * 3 + 1
    assert three[:2] == ["model.layers.0.mlp.", "model.layers.0.self_attn."]


FEW = [way for way in WAYS if way["layer_groups"] != 5]


@pytest.mark.parametrize(("a", "b"), list(itertools.product(FEW, FEW)), ids=str)
def test_carrying_keeps_what_the_finer_space_can_hold(a: Any, b: Any) -> None:
    coarse, fine = space(**a), space(**b)
    genome = genome_of(coarse)
    carried = carry(genome, coarse, fine)
    assert len(carried) == fine.size
    assert all(0 <= one <= 1 for one in carried)
    outer = {name: mix.group for name, mix in coarse.mixes.items()}
    nested = all(len({outer[name] for name in group.tensors}) == 1 for group in fine.groups)
    before, after = values_of(coarse, genome), values_of(fine, carried)
    if nested and not a["smooth"] and not b["smooth"]:
        assert after == before  # to the last bit
    elif a == b or (nested and b["layer_groups"] == "all"):
        for name in NAMES:
            assert after[name]["lambda_"] == pytest.approx(before[name]["lambda_"], abs=1e-9)
            assert after[name]["weight"] == pytest.approx(before[name]["weight"], abs=1e-9)
            assert after[name]["rule"] == before[name]["rule"]


def test_a_coarser_start_is_the_mean_and_the_most_frequent_choice() -> None:
    fine, coarse = space("all"), space(1)
    genome = [0.25] * fine.size
    genome[0:13] = [n / 12 for n in range(13)]  # weight of math
    rule = [gene.key for gene in fine.genes].index("rule")
    genome[rule * 13 : rule * 13 + 13] = [0.2] * 3 + [0.8] * 10
    carried = carry(genome, fine, coarse)
    # 4 tensors in each layer, 3 outside.
    assert carried[0] == pytest.approx((4 * sum(n / 12 for n in range(12)) + 3) / 51)
    assert coarse.genes[rule].value(carried[rule]) == "paper"


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_values_of_a_recipe_become_the_genome_that_says_them(way: dict[str, Any]) -> None:
    made = space(**way)
    genome = genome_of(made, 3)
    values = values_of(made, genome)
    again = values_of(made, at_values(made, values, EXPERTS, "r"))
    for name in NAMES:
        assert again[name]["rule"] == values[name]["rule"]
        assert again[name]["lambda_"] == pytest.approx(values[name]["lambda_"])
        for key in ("weight", "density"):
            assert again[name][key] == pytest.approx(values[name][key])


def test_values_beyond_the_range_are_clipped_and_unknown_words_refused() -> None:
    made = space(1)
    values = values_of(made, [0.5] * made.size)
    for one in values.values():
        one["lambda_"], one["weight"] = 7.0, [-1.0, 0.3]
    genome = at_values(made, values, EXPERTS, "r")
    found = values_of(made, genome)[NAMES[0]]
    assert found["lambda_"] == 2.0
    assert found["weight"] == pytest.approx([0.0, 0.3])
    values[NAMES[3]]["rule"] = "fuseai"
    with pytest.raises(UserError, match=r"w: rule is 'fuseai'. Expected one of"):
        at_values(made, values, EXPERTS, "w")


def test_the_table_of_coefficients() -> None:
    made = space(3, components=True)
    genome = [0.5] * made.size
    table = made.coefficients(genome)
    assert table["columns"][0] == "layer 0-3 attention"
    assert len(table["columns"]) == 10
    assert table["rows"] == [
        "weight of math", "weight of code", "lambda", "rule (0 mergekit, 1 paper)",
        "density of code",
    ]  # fmt: skip
    assert {len(row) for row in table["values"]} == {10}
    lambdas = table["values"][table["rows"].index("lambda")]
    assert lambdas == [1.0] * 10


@pytest.mark.parametrize("components", [False, True])
@pytest.mark.parametrize(
    ("layer_groups", "smooth", "message"),
    [
        ([1], False, None),
        ([1, 4, "all"], False, None),
        ([1, 3, 6, "all"], False, None),
        ([1, 4, "all"], True, None),
        ([4, 6], False, r"r.layer_groups: 6 after 4. Expected a multiple of the number before it"),
        (["all", 1], False, "1 after all"),
        ([3, 6], True, "6 after 3. Expected 1, one more number, then all"),
    ],
)
def test_stages_hold_what_those_before_found(
    layer_groups: list[Any], smooth: bool, message: str | None, components: bool
) -> None:
    one = space(1)
    ways = {"components": components, "smooth": smooth}
    if message is None:
        spaces = stages(one.data, one.genes, NAMES, layer_groups, "r", **ways)
        assert [made.groups for made in spaces] == [
            space(groups, **ways).groups for groups in layer_groups
        ]
        return
    with pytest.raises(UserError, match=message):
        stages(one.data, one.genes, NAMES, layer_groups, "r", **ways)
