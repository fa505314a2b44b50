"""Settings: scalars, gradients and filters mean what they mean in mergekit."""

from typing import Any

import pytest

from smelt.core.errors import UserError
from smelt.merge.method import load_method
from smelt.merge.parameters import Span, check_setting, gradient, resolve
from smelt.merge.recipe import parse_recipe
from smelt.merge.values import Level, check_level, values_for

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("setting", "position", "value"),
    [
        (0.3, 0.7, 0.3),
        ([0.0, 1.0], 0.25, 0.25),
        ([0.0, 1.0, 0.5], 0.75, 0.75),
        ([0.2], 1.0, 0.2),
        ([0.1, 0.9], 1.0, 0.9),
        ([True, False], 0.9, True),
        ([True, False], 1.0, False),
        ([{"filter": "mlp", "value": 1.0}, {"value": 0.5}], 0.0, 1.0),
        ([{"filter": "attn", "value": 1.0}, {"value": 0.5}], 0.0, 0.5),
        ([{"filter": "*", "value": 2.0}, {"filter": "mlp", "value": 0.5}], 0.0, 2.0),
        ([{"filter": "mlp", "value": [0.0, 4.0]}], 0.5, 2.0),
        ({"filter": "up_proj", "value": 3.0}, 0.5, 3.0),
        ([{"filter": "attn", "value": 1.0}], 0.0, None),
    ],
)
def test_resolve(setting: object, position: float, value: object) -> None:
    assert check_setting(setting) == setting
    assert resolve(setting, NAME, position) == value


def test_gradient_hits_its_points() -> None:
    values = [0.0, 0.5, 0.3, 0.7, 1.0]  # the example of mergekit's README
    assert [gradient(list(values), i / 4) for i in range(5)] == pytest.approx(values)
    assert gradient(list(values), 0.375) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "setting",
    [
        [],
        None,
        [0.1, {"value": 1}],
        [{"filter": "mlp"}],
        [{"filtr": "mlp", "value": 1}],
        [{"filter": 3, "value": 1}],
        [{"value": [1, "x"]}],
        [True, 0.5],
        [True, "0.5"],
        ["0.5", "x"],
    ],
)
def test_wrong_settings(setting: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (pydantic turns it into the user's message)
        check_setting(setting)


def test_even_default() -> None:
    span = Span(0.0, 1.0, 1.0, 0.0, 1.0, per_expert=True, even=True)
    assert span.start(4) == 0.25
    assert Span(0.0, 1.0, 1.0, 0.0, 1.0).start(4) == 1.0


def test_a_span_says_what_a_recipe_may_set() -> None:
    span = Span(0.0, 2.0, 0.5, search_low=0.1, search_high=1.0)
    assert str(span) == "one for the merge, 0 to 2, default 0.5, searched from 0.1 to 1"
    without = Span(0.0, 2.0, None, search_low=0.1, search_high=1.0)
    assert without.start(2) is None
    assert str(without) == "one for the merge, 0 to 2, must be set, searched from 0.1 to 1"


def valued(
    method: str, key: str, setting: Any, tensor: str = NAME, position: float = 0.5
) -> tuple[Any, list[str]]:
    """The value of one parameter of a merge of two models, and the warnings about it."""
    found = load_method(method)
    level, warnings = check_level("r: parameters", {key: check_setting(setting)}, found,
                                  one_model=False)  # fmt: skip
    own = [Level("one", {}), Level("two", {})]
    values = values_for(found, [level], own, tensor, [tensor, tensor], position)
    return values[found.parameters[key].name], warnings


@pytest.mark.parametrize(
    "setting",
    [
        ["0", "1"],
        ["0", 1],
        [0, "1"],
        ["0.0", 1.0],
        [{"filter": "mlp", "value": ["0", 1]}, {"value": "0.9"}],
        {"filter": "mlp", "value": ["0", "1e0"]},
    ],
)
def test_numbers_in_quotes_interpolate_like_plain_ones(setting: Any) -> None:
    assert valued("slerp", "t", setting, position=0.25)[0] == 0.25


def test_words_and_switches_still_step() -> None:
    assert valued("linear", "normalize", [True, False], position=0.9)[0] is True


@pytest.mark.parametrize("key", ["max_iter", "steps", "min_experts"])
@pytest.mark.parametrize("setting", [2.5, "2.5", [1, 2.5], [{"filter": "mlp", "value": 0.5}]])
def test_a_parameter_of_whole_numbers_takes_no_others(key: str, setting: Any) -> None:
    method = {"max_iter": "karcher", "steps": "wudi", "min_experts": "consensus"}[key]
    with pytest.raises(UserError, match=rf"parameters.{key}: found [0-9.]+. Expected a whole num"):
        valued(method, key, setting)
    assert valued(method, key, "2")[0] == 2.0
    assert valued(method, key, [1, 4], position=0.4)[0] == 2.0, "2.2 between two whole numbers"


def test_a_span_of_whole_numbers_says_so() -> None:
    span = Span(0.0, 9.0, 2.0, search_low=1.0, search_high=4.0, whole=True)
    expected = "one for the merge, a whole number from 0 to 9, default 2, searched from 1 to 4"
    assert str(span) == expected


@pytest.mark.parametrize("catch_all", [{"value": 1}, {"filter": "*", "value": 1}])
def test_conditions_that_no_tensor_reaches_are_a_warning(catch_all: dict[str, Any]) -> None:
    late = {"filter": "mlp", "value": 0.2}
    value, warnings = valued("slerp", "t", [catch_all, late])
    assert value == 1.0
    (text,) = warnings
    assert text.startswith("r: parameters.t: the filter 'mlp' has no effect")
    assert valued("slerp", "t", [late, catch_all]) == (0.2, [])


def test_dtypes_may_be_those_of_torch() -> None:
    data = {"merge_method": "linear", "models": [{"model": "a"}]}
    recipe = parse_recipe(data | {"dtype": "torch.bfloat16", "out_dtype": "torch.float16"}, "r")
    assert (recipe.dtype, recipe.out_dtype) == ("bfloat16", "float16")
    with pytest.raises(UserError, match=r"dtype: found 'int8'\. Expected 'float64', 'fl"):
        parse_recipe(data | {"dtype": "torch.int8"}, "r")


FORM = "a number, a list of numbers over depth, or a list of"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"models": [{"model": None}]}, "r: models[0].model: found None. Expected path, path@revision, "
     "path+lora, or a mapping {model, lora}."),
    ({"models": [{"model": "a+b+c"}]}, "models[0].model: found 'a+b+c'. Expected path, path@revi"
     "sion, path+lora, or a mapping {model, lora} (cannot tell model and adapter apart in"),
    ({"models": [{"model": {"model": "a", "lorra": "b"}}]}, "models[0].model: invalid. Expected "
     "'lora' (one of: model, lora, override_architecture) (lorra: unknown key)."),
    ({"models": ["a", "b"]}, "models[0]: found 'a'. Expected a mapping with `model`."),
    ({"models": []}, "models: invalid. Expected at least one entry, found none."),
    ({"modules": {}}, "modules: invalid. Expected at least one entry, found none."),
    ({"modules": {"text_decoder": "a"}}, "text_decoder: found 'a'. Expected a mapping with `model"),
    ({"slices": ["a"]}, "slices[0]: found 'a'. Expected a mapping with `sources`."),
    ({"slices": [{"sources": []}]}, "sources: invalid. Expected at least one entry, found none."),
    ({"slices": [{"sources": ["a"]}]}, "found 'a'. Expected a mapping with `model` and `layer_ran"),
    ({"models": [{"model": "a", "parameters": {"weight": {"mlp": 1}}}]}, "weight: invalid. Expected"
     f" {FORM} {{filter, value}}, such as [{{filter: mlp, value: 0.5}}, {{value: 1}}], found a"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), WRONG)
def test_what_is_wrong_is_told_once_and_in_words_of_recipes(
    data: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse_recipe({"merge_method": "linear", **data}, "r")
    assert message in str(caught.value)
    for alien in ("found found", "instance of", "validation", "dictionary"):
        assert alien not in str(caught.value)
