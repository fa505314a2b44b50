"""The training loop: exact resume, frozen parameters, one loss curve."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.core import config, registry
from smelt.core.errors import UserError
from smelt.models.load import fresh_model, load_model
from smelt.train import state
from smelt.train.batches import Batch
from smelt.train.loop import freeze, make_optimizer, train_loop
from smelt.train.recipe import Optimizer, TrainRecipe
from tests.pico import pico_llama
from tests.train.rows import train_data, write_sums

sft = registry.load("stage", "sft")


class Killed(BaseException):
    """What a test raises in the middle of a run."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("loop")
    pico_llama(home / "model")
    write_sums(home / "rows.jsonl")
    return home


def recipe_of(home: Path, **changes: Any) -> TrainRecipe:
    changes = {"model": str(home / "model"), **changes}
    return config.parse(TrainRecipe, train_data(home / "rows.jsonl", **changes), "r")


def stopping(step: int, error: BaseException) -> Callable[[PreTrainedModel, Batch], torch.Tensor]:
    """The sft loss, which raises at its call number `step`."""
    calls = 0

    def loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > step:
            raise error
        return sft(model, batch)  # type: ignore[no-any-return]

    return loss


def run(
    home: Path, folder: Path, loss: Any = sft, model: Any = None, seed: int = 0, **changes: Any
) -> tuple[dict[str, torch.Tensor], dict[str, float], str]:
    """Weights, metrics and loss curve of a run."""
    folder.mkdir(exist_ok=True)
    model = model or load_model(home / "model")
    tokenizer = open_tokenizer(home / "model")
    recipe = recipe_of(home, **changes)
    metrics = train_loop(model, tokenizer, recipe, loss, folder, seed=seed, label="t")
    return model.state_dict(), metrics, (folder / "metrics.jsonl").read_text()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_loss_falls_and_the_curve_says_so(home: Path, tmp_path: Path) -> None:
    _, metrics, curve = run(home, tmp_path / "a")
    rows = [json.loads(line) for line in curve.splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert [row["phase"] for row in rows] == ["a", "a", "b", "b"]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["lr"] == pytest.approx(0.0015)
    assert rows[-1]["tokens"] == metrics["tokens"] > rows[0]["tokens"] > 0
    assert metrics["final_loss"] == rows[-1]["loss"]
    assert metrics["steps"] == 8


def test_seeds_decide_the_order_of_data(home: Path, tmp_path: Path) -> None:
    first, again, other = (
        run(home, tmp_path / name, seed=seed)[0] for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7])
def test_stop_and_resume_equals_no_stop(home: Path, tmp_path: Path, step: int) -> None:
    whole = run(home, tmp_path / "whole")
    folder = tmp_path / "cut"
    with pytest.raises(Killed):
        run(home, folder, stopping(step, Killed()))
    found = sorted(path.name for path in folder.glob("resume-*"))
    assert found == ([f"resume-{step // 2 * 2}"] if step > 1 else [])
    weights, metrics, curve = run(home, folder)
    assert same(weights, whole[0])
    assert (metrics, curve) == whole[1:]


def test_two_stops_a_cut_save_and_a_cut_line(home: Path, tmp_path: Path) -> None:
    whole, folder = run(home, tmp_path / "whole"), tmp_path / "cut"
    for steps in (5, 3):
        with pytest.raises(Killed):
            run(home, folder, stopping(steps, Killed()))
    assert [path.name for path in folder.glob("resume-*")] == ["resume-6"]
    (folder / "resume-8.partial").mkdir()
    (folder / "resume-8.partial" / "state.safetensors").write_bytes(b"half")
    with (folder / "metrics.jsonl").open("a") as curve:
        curve.write('{"step": 8, "lo')
    weights, *others = run(home, folder)
    assert same(weights, whole[0])
    assert others == list(whole[1:])
    assert [path.name for path in folder.glob("resume-*")] == ["resume-8"]
    # A run that was killed after its last step trains no more, and says the same.
    again, *others = run(home, folder, stopping(0, Killed()))
    assert same(again, whole[0])
    assert others == list(whole[1:])
    state.remove(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl"]


def test_dropout_does_not_disturb_resuming(home: Path, tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "attention_dropout": 0.3}  # fmt: skip

    def fresh() -> PreTrainedModel:
        return fresh_model(shape, open_tokenizer(home / "model"), 5)

    whole = run(home, tmp_path / "whole", model=fresh())
    with pytest.raises(Killed):
        run(home, tmp_path / "cut", stopping(5, Killed()), model=fresh())
    torch.rand(3)
    resumed = run(home, tmp_path / "cut", model=fresh())
    assert same(whole[0], resumed[0])
    plain = run(home, tmp_path / "plain", model=fresh_model(
        {**shape, "attention_dropout": 0.0}, open_tokenizer(home / "model"), 5))  # fmt: skip
    assert not same(whole[0], plain[0])


def test_the_state_of_fused_adamw_is_restored_exactly(home: Path, tmp_path: Path) -> None:
    model, other = load_model(home / "model"), load_model(home / "model")
    optimizers = [make_optimizer(one, Optimizer()) for one in (model, other)]
    assert all(group["fused"] for one in optimizers for group in one.param_groups)
    for _ in range(3):
        model(input_ids=torch.arange(12)[None]).logits.square().mean().backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
    state.save(tmp_path, 3, model, optimizers[0])
    assert state.load(tmp_path, other, optimizers[1]) == 3
    mine, theirs = (one.state_dict()["state"] for one in optimizers)
    assert mine.keys() == theirs.keys()
    for index, values in mine.items():
        assert set(values) == {"step", "exp_avg", "exp_avg_sq"}
        for key, value in values.items():
            assert torch.equal(value, theirs[index][key])
            assert (value.dtype, value.device) == (theirs[index][key].dtype, value.device)
    for one, optimizer in zip((model, other), optimizers, strict=True):
        one(input_ids=torch.arange(9)[None]).logits.square().mean().backward()
        optimizer.step()
    assert same(model.state_dict(), other.state_dict())


def test_only_a_complete_state_counts(home: Path, tmp_path: Path) -> None:
    model = load_model(home / "model")
    optimizer = make_optimizer(model, Optimizer())
    assert state.load(tmp_path, model, optimizer) == 0
    for step in (9, 10):
        state.save(tmp_path, step, model, optimizer)
    (tmp_path / "resume-11.partial").mkdir()
    assert state.load(tmp_path, model, optimizer) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resume-10", "resume-11.partial"]


def test_weight_decay_is_on_matrices_only(home: Path) -> None:
    model = load_model(home / "model")
    groups = make_optimizer(model, Optimizer(weight_decay=0.5)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    named = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert named.pop("model.embed_tokens.weight") == 0.5
    assert {value for name, value in named.items() if "norm" in name} == {0.0}
    assert {value for name, value in named.items() if "norm" not in name} == {0.5}


def test_frozen_parameters_do_not_move(home: Path, tmp_path: Path) -> None:
    before = load_model(home / "model").state_dict()
    after, _, _ = run(home, tmp_path / "a", freeze=["embed_tokens", "layers.0.mlp"])
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    still = set(after) - moved
    assert still == {
        "lm_head.weight", "model.embed_tokens.weight",
        *(f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["layers.7"], "freeze: 'layers.7': matches no parameter"),
        (["model"], "nothing is left to train"),
    ],
)
def test_freeze_refuses(home: Path, patterns: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        freeze(load_model(home / "model"), patterns)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(home: Path, tmp_path: Path, number: float) -> None:
    def broken(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        return sft(model, batch) * number  # type: ignore[no-any-return]

    with pytest.raises(UserError, match="the loss is not a number at step 0"):
        run(home, tmp_path / "a", broken)


def test_the_gradient_is_clipped(home: Path, tmp_path: Path) -> None:
    norms: list[float] = []

    def huge(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        first = next(model.parameters())
        if not norms:
            first.register_post_accumulate_grad_hook(lambda p: norms.append(float(p.grad.norm())))
        return sft(model, batch) * 1e6  # type: ignore[no-any-return]

    changes = {"optimizer": {"lr": 0.003, "warmup_steps": 0, "clip": 1e-9, "weight_decay": 0.0}}
    model = load_model(home / "model")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after, _, _ = run(home, tmp_path / "a", huge, model=model, **changes)
    assert norms[0] > 1
    # Gradients far below AdamW's epsilon of 1e-8 hardly move anything.
    assert max(float((after[n] - before[n]).abs().max()) for n in after) < 0.003


def test_a_part_that_fits_nowhere_is_refused_before_the_first_step(
    home: Path, tmp_path: Path
) -> None:
    data = train_data(home / "rows.jsonl", model=str(home / "model"))
    data["phases"][1]["mixture"] = [{"path": str(home / "rows.jsonl"), "where": {"domain": "x"}}]
    recipe = config.parse(TrainRecipe, data, "r")
    model, tokenizer = load_model(home / "model"), open_tokenizer(home / "model")
    with pytest.raises(UserError, match=r"phases\[1\]: no rows left"):
        train_loop(model, tokenizer, recipe, stopping(0, Killed()), tmp_path, seed=0, label="t")


def test_betas_are_checked(home: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer\.betas\[1\]"):
        recipe_of(home, optimizer={"betas": [0.9, 1.5]})
