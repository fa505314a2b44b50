"""Loading, making and saving networks; what is refused and how."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.core.errors import UserError
from smelt.models.load import (
    check_fits,
    context_length,
    count_parameters,
    fresh_model,
    load_model,
    pick_device,
    save_model,
)
from tests.pico import pico_llama, pico_tokenizer

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4}  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_llama(tmp_path_factory.mktemp("load") / "model")


@pytest.fixture
def model_folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, drop: str = "", **more: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    tensors = {name: one for name, one in load_file(path).items() if name != drop}
    save_file({**tensors, **more}, path, metadata={"format": "pt"})


def test_loads_in_float32_and_for_evaluation(model_folder: Path) -> None:
    halves = {n: t.bfloat16() for n, t in load_file(model_folder / "model.safetensors").items()}
    save_file(halves, model_folder / "model.safetensors", metadata={"format": "pt"})
    model = load_model(model_folder)
    assert not model.training
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    named = dict(model.named_parameters())
    assert all(torch.equal(named[name], one.float()) for name, one in halves.items())


def test_refuses_a_missing_tensor(model_folder: Path) -> None:
    rewrite(model_folder, drop="model.norm.weight")
    with pytest.raises(UserError, match=r"tensors missing: model.norm.weight"):
        load_model(model_folder)


def test_refuses_layers_that_the_config_does_not_have(model_folder: Path) -> None:
    change_config(model_folder, num_hidden_layers=1)
    with pytest.raises(UserError, match=r"tensors not in the configuration: model.layers.1\."):
        load_model(model_folder)
    change_config(model_folder, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"tensors missing: model.layers.2\."):
        load_model(model_folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 999}, "cannot be loaded|of another shape"),
        ({"hidden_size": 33}, "not a multiple"),
        ({"hidden_size": "x"}, "expected int"),
        ({"model_type": "no_such"}, "cannot be loaded"),
        ({"num_attention_heads": 0, "head_dim": None}, "cannot be loaded"),
    ],
)
def test_refuses_a_config_that_does_not_fit(
    model_folder: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(model_folder, **changes)
    with pytest.raises(UserError, match=message):
        load_model(model_folder)


def test_refuses_damaged_and_foreign_files(model_folder: Path, tmp_path: Path) -> None:
    weights = model_folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-100])
    with pytest.raises(UserError, match=r"model.safetensors"):
        load_model(model_folder)
    weights.unlink()
    with pytest.raises(UserError, match="no weights in it"):
        load_model(model_folder)
    (model_folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"only pytorch_model.bin in it"):
        load_model(model_folder)
    (model_folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_model(model_folder)
    with pytest.raises(UserError, match="no such folder"):
        load_model(tmp_path / "nowhere")


def test_fresh_models_follow_the_seed_and_the_tokenizer(original: Path) -> None:
    tokenizer = open_tokenizer(original)
    one, same, other = (fresh_model(SHAPE, tokenizer, seed) for seed in (1, 1, 2))
    pairs = zip(one.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    config = one.config
    assert (config.vocab_size, config.eos_token_id, config.pad_token_id, config.bos_token_id) == (
        tokenizer.size, tokenizer.eos_id, tokenizer.pad_id, None,
    )  # fmt: skip
    assert config.num_key_value_heads == 4
    tied = fresh_model({**SHAPE, "tie_word_embeddings": True}, tokenizer, 1)
    assert count_parameters(one) - count_parameters(tied) == tokenizer.size * 32


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt_neox", "gemma2"])
def test_saved_models_load_again_with_the_same_logits(
    original: Path, tmp_path: Path, kind: str
) -> None:
    tokenizer = open_tokenizer(original)
    model = fresh_model({"model_type": kind, **SHAPE, "head_dim": 8}
                        if kind in ("qwen3", "gemma2") else {"model_type": kind, **SHAPE},
                        tokenizer, 1)  # fmt: skip
    (tmp_path / kind).mkdir()
    save_model(model, original, tmp_path / kind)
    ids = torch.tensor([tokenizer.encode("The quick brown fox")])
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / kind)(ids).logits, model(ids).logits)
    assert open_tokenizer(tmp_path / kind).sha256 == tokenizer.sha256
    assert (tmp_path / kind / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_context_and_tokenizer_must_fit(original: Path, tmp_path: Path) -> None:
    model = load_model(original)
    assert context_length(model) == 128
    check_fits(model, open_tokenizer(original), "x")
    pico_llama(tmp_path / "small", vocab=300)
    with pytest.raises(UserError, match=r"x: tokenizer .* ids, the model 300 rows"):
        check_fits(load_model(tmp_path / "small"), open_tokenizer(original), "x")
    pico_tokenizer(tmp_path / "t", vocab=300)
    check_fits(model, open_tokenizer(tmp_path / "t"), "x")


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps", "xpu")
    for name in ("cuda:99", "no_such"):
        with pytest.raises(UserError, match=f"--device: '{name}' cannot be used"):
            pick_device(name)
