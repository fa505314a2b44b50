"""Genes, layer groups, and the way from a genome to parameters and to a recipe."""

from typing import Any

import pytest

from smelt.core.errors import UserError
from smelt.merge.parameters import resolve
from smelt.search.genes import Gene, find_genes, without_marks
from smelt.search.groups import group_tensors
from smelt.search.space import Space

NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{n}.{part}.weight" for n in range(12) for part in ("self_attn", "mlp")),
    "model.norm.weight",
]


def recipe(method: str = "ties", top: Any = None, *own: Any, **more: Any) -> dict[str, Any]:
    models = [
        {"model": name, **({"parameters": one} if one else {})}
        for name, one in zip(("math", "code"), own or (None, None), strict=True)
    ]
    top = {"parameters": top} if top else {}
    return {"merge_method": method, "base_model": "base", "models": models, **top, **more}


def keys(data: dict[str, Any]) -> list[tuple[str, int | None]]:
    return [(gene.key, gene.model) for gene in find_genes(data, "r")]


def test_marks_become_genes() -> None:
    assert keys(recipe(top={"weight": "search"})) == [("weight", 0), ("weight", 1)]
    assert keys(recipe("ties", None, {"weight": "search"}, None)) == [("weight", 0)]
    assert keys(recipe(top={"lambda": "search"})) == [("lambda", None)]
    genes = find_genes(recipe(top={"lambda": "search", "density": "search"}), "r")
    assert genes == [
        Gene("lambda", "lambda_", None, 0.0, 2.0),
        Gene("density", "density", 0, 0.1, 1.0),
        Gene("density", "density", 1, 0.1, 1.0),
    ]


def test_a_model_with_a_value_of_its_own_is_not_searched() -> None:
    assert keys(recipe("ties", {"weight": "search"}, {"weight": 0.4}, None)) == [("weight", 1)]
    mixed = recipe("ties", {"weight": "search"}, {"weight": "search"}, None)
    assert sorted(keys(mixed)) == [("weight", 0), ("weight", 1)]


def test_the_base_among_the_models_has_no_gene() -> None:
    data = recipe(top={"weight": "search"})
    data["models"].insert(0, {"model": "base"})
    assert keys(data) == [("weight", 1), ("weight", 2)]
    space = Space(without_marks(data, []), find_genes(data, "r"), group_tensors(NAMES, 1, "r"))
    found = space.parameters([0.2, 0.6], NAMES[0], {"weight": [0.5, 0.5]}, ["math", "code"])
    assert found == {"weight": pytest.approx([0.3, 0.9])}
    data["models"][0]["parameters"] = {"weight": "search"}
    with pytest.raises(UserError, match=r"models\[0\].parameters.weight: searched for the base"):
        find_genes(data, "r")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (recipe(), "nothing to search"),
        (
            recipe(top={"weigth": "search"}),
            "'weigth' cannot be searched. Expected what ties takes: 'weight' .one of:",
        ),
        (recipe(top={"int8_mask": "search"}), "'int8_mask' cannot be searched"),
        (recipe("ties", None, {"lambda": "search"}, None), "'lambda' searched for one model"),
        ({"merge_method": "ties", "slices": []}, "a search over slices. Expected `models`"),
        ({"merge_method": "ties", "modules": {}}, "a search over modules. Expected `models`"),
        (
            recipe(top={"weight": [{"filter": "mlp", "value": "search"}, {"value": 1}]}),
            "parameters.weight: `search` inside a list",
        ),
    ],
)
def test_refuses(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_genes(data, "r")


def test_groups_cut_the_layers() -> None:
    groups = group_tensors(NAMES, 3, "r")
    assert [group.label for group in groups] == ["layer 0-3", "layer 4-7", "layer 8-11", "other"]
    assert [len(group.tensors) for group in groups] == [8, 8, 8, 2]
    every = group_tensors(NAMES, "all", "r")
    assert [group.label for group in every] == [*(f"layer {n}" for n in range(12)), "other"]
    assert [group.label for group in group_tensors(NAMES, 1, "r")] == ["all"]
    assert [len(g.tensors) for g in group_tensors(NAMES, 5, "r")] == [4, 4, 6, 4, 6, 2]
    with pytest.raises(UserError, match=r"r.layer_groups: found 13. Expected at most 12"):
        group_tensors(NAMES, 13, "r")


@pytest.mark.parametrize("layer_groups", [1, 3, "all"])
def test_the_recipe_says_what_the_genome_says(layer_groups: Any) -> None:
    data = recipe("ties", {"weight": "search", "lambda": "search"}, None, {"density": "search"})
    genes = find_genes(data, "r")
    space = Space(without_marks(data, genes), genes, group_tensors(NAMES, layer_groups, "r"))
    genome = [(7 * n % 50) / 50 for n in range(space.size)]
    plain = space.recipe(genome)
    assert "search" not in str(plain)
    base = {"weight": [0.5, 0.5], "density": [1.0, 1.0], "lambda_": 1.0, "normalize": True}
    for name in NAMES:
        found = space.parameters(genome, name, base, ["math", "code"])
        assert found["lambda_"] == resolve(plain["parameters"]["lambda"], name, 0.0)
        for index in range(2):
            own = plain["models"][index]["parameters"]
            assert found["weight"][index] == resolve(own["weight"], name, 0.0)
        assert found["density"] == [1.0, resolve(own["density"], name, 0.0)]
        assert found["normalize"] is True
    if layer_groups == "all":  # layer 1 and layer 11 have values of their own
        setting, place = plain["parameters"]["lambda"], [gene.key for gene in genes].index("lambda")
        ones = [resolve(setting, f"model.layers.{n}.mlp.weight", 0.0) for n in (1, 11)]
        own = genome[place * len(space.groups) :]
        assert ones == [genes[place].value(own[n]) for n in (1, 11)]
        assert ones[0] != ones[1]
    assert base["weight"] == [0.5, 0.5]


def test_models_may_be_written_as_mappings() -> None:
    data = recipe(top={"weight": "search"})
    data["base_model"] = {"model": {"path": "base"}}
    data["models"][0]["model"] = {"model": "base", "lora": "lora"}
    data["models"].append({"model": {"model": "base"}})
    genes = find_genes(data, "r")
    assert [gene.model for gene in genes] == [0, 1]
    space = Space(without_marks(data, genes), genes, group_tensors(NAMES, 1, "r"))
    found = space.parameters([0.2, 0.6], NAMES[0], {"weight": [0.5, 0.5]}, ["code", "base+lora"])
    assert found == {"weight": pytest.approx([0.9, 0.3])}


def test_a_tensor_that_is_copied_has_no_values() -> None:
    data = recipe(top={"weight": "search", "lambda": "search"})
    genes = find_genes(data, "r")
    space = Space(without_marks(data, genes), genes, group_tensors(NAMES, "all", "r"))
    tower = "vision_tower.layers.0.weight"
    assert space.parameters([0.5] * space.size, tower, {}, ["math", "code"]) == {}


def test_whole_numbers_are_searched_as_such() -> None:
    data = recipe("karcher", {"max_iter": "search"})
    genes = find_genes(data, "r")
    space = Space(without_marks(data, genes), genes, group_tensors(NAMES, 1, "r"))
    values = {genes[0].value(n / 100) for n in range(101)}
    assert values == {float(n) for n in range(1, 21)}
    setting = space.recipe([0.5])["parameters"]["max_iter"]
    assert setting == space.parameters([0.5], NAMES[0], {"max_iter": 9.0}, [])["max_iter"] == 10.0
