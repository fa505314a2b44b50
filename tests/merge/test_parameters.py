"""Settings: scalars, gradients and filters mean what they mean in mergekit."""

import pytest

from smelt.merge.parameters import Span, check_setting, gradient, resolve

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
