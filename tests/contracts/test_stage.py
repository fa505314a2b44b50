"""What every training stage must do: the loss falls, and an interrupted run ends the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.core import config, registry
from smelt.models.load import load_model
from smelt.train import fuse as fusion
from smelt.train.batches import Batch
from smelt.train.loop import train_loop
from smelt.train.recipe import TrainRecipe
from tests.pico import pico_llama
from tests.train.rows import train_data, write_sums

pytestmark = pytest.mark.parametrize("name", registry.names("stage"))


class Killed(BaseException):
    """What a test raises in the middle of a run."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stage")
    pico_llama(home / "model")
    pico_llama(home / "source", seed=1, kind="sentencepiece_bpe")
    write_sums(home / "rows.jsonl")
    return home


def fuse_recipe(home: Path) -> fusion.FuseRecipe:
    data = train_data(home / "rows.jsonl")
    del data["stage"]
    data |= {"pivot": str(home / "model"), "sources": {"other": str(home / "source")}}
    return config.parse(fusion.FuseRecipe, data, "r")


def prepare_of(home: Path, folder: Path) -> Callable[[Batch], Batch]:
    recipe = fuse_recipe(home)
    rows = fusion.rows_of(recipe, "r")
    return fusion.attach(*fusion.capture_all(recipe, rows, folder / "stores", torch.device("cpu")))


def train(home: Path, folder: Path, name: str, steps: int | None = None) -> tuple[Any, str]:
    """Weights and loss curve; killed after `steps` steps."""
    folder.mkdir(exist_ok=True)
    data = train_data(home / "rows.jsonl", stage=name, model=str(home / "model"))
    recipe = config.parse(TrainRecipe, data, "r")
    model, tokenizer = load_model(home / "model"), open_tokenizer(home / "model")
    stage = registry.load("stage", name)
    done = 0

    def loss(model: Any, batch: Batch) -> torch.Tensor:
        nonlocal done
        if done == steps:
            raise Killed
        done += 1
        return stage(model, batch)

    needs_targets = name == "distill"
    options = {"prepare": prepare_of(home, folder)} if needs_targets else {}
    train_loop(model, tokenizer, recipe, loss, folder, seed=0, label="t", **options)
    return model.state_dict(), (folder / "metrics.jsonl").read_text()


def test_the_loss_is_finite_and_falls(name: str, home: Path, tmp_path: Path) -> None:
    _, curve = train(home, tmp_path / "a", name)
    losses = [json.loads(line)["loss"] for line in curve.splitlines()]
    assert losses[-1] < losses[0] < 20


def test_resume_equals_no_resume(name: str, home: Path, tmp_path: Path) -> None:
    weights, curve = train(home, tmp_path / "whole", name)
    with pytest.raises(Killed):
        train(home, tmp_path / "cut", name, 5)
    resumed, resumed_curve = train(home, tmp_path / "cut", name)
    assert resumed_curve == curve
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)
