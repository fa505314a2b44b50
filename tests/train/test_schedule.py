"""Learning rates by hand."""

import math

import pytest

from smelt.core import config
from smelt.core.errors import UserError
from smelt.train.recipe import TrainRecipe
from smelt.train.schedule import learning_rate, phase_at

PART = [{"path": "x"}]
DATA = {
    "model": "m",
    "optimizer": {"lr": 0.01, "warmup_steps": 4},
    "phases": [
        {"name": "stable", "steps": 6, "mixture": PART},
        {"name": "down", "steps": 5, "mixture": PART, "schedule": "linear", "final": 0.2},
        {"name": "curve", "steps": 3, "mixture": PART, "schedule": "cosine", "final": 0.1},
    ],
}


def test_rates_of_all_steps() -> None:
    recipe = config.parse(TrainRecipe, DATA, "r")
    cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * n / 2)) for n in range(3)]
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, *cosine]
    found = [learning_rate(recipe, step) / 0.01 for step in range(recipe.steps)]
    assert found == pytest.approx(expected)
    assert cosine == pytest.approx([1, 0.55, 0.1])


def test_phase_of_a_step() -> None:
    recipe = config.parse(TrainRecipe, DATA, "r")
    assert [phase_at(recipe, step) for step in (0, 5, 6, 10, 11, 13)] == [
        (0, 0), (0, 5), (1, 0), (1, 4), (2, 0), (2, 2),
    ]  # fmt: skip
    with pytest.raises(IndexError):
        phase_at(recipe, 14)


def test_no_warmup_starts_at_the_peak() -> None:
    data = {**DATA, "optimizer": {"lr": 0.5, "warmup_steps": 0}}
    assert learning_rate(config.parse(TrainRecipe, data, "r"), 0) == 0.5


def test_two_phases_of_one_name_are_refused() -> None:
    data = {**DATA, "phases": [DATA["phases"][0], DATA["phases"][0]]}  # type: ignore[index]
    with pytest.raises(UserError, match="'stable' twice"):
        config.parse(TrainRecipe, data, "r")
