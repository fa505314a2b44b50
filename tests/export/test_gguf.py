"""The written file, read back by independent readers: gguf's own and transformers'."""

import json
import shutil
from pathlib import Path

import gguf as package
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from smelt.core import digest
from smelt.core.errors import UserError
from smelt.export.contents import contents
from smelt.export.targets.gguf import gguf
from tests.pico import pico_llama


@pytest.fixture
def copied(pico: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pico, tmp_path / "copied"))


def change(folder: Path, name: str, value: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    if value is None:
        tensors.pop(name)
    else:
        tensors[name] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_transformers_reads_the_same_network(pico: Path, tmp_path: Path) -> None:
    """Its own GGUF reader undoes row order and names: every tensor must come back exactly."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = gguf(pico, tmp_path / "m.gguf", quantize="f32")
    config = LlamaConfig.from_pretrained(pico)
    read = load_gguf_checkpoint(
        str(path), return_tensors=True, model_to_load=LlamaForCausalLM(config)
    )
    for name, tensor in load_file(pico / "model.safetensors").items():
        assert torch.equal(read["tensors"][name], tensor), name
    assert read["config"]["num_key_value_heads"] == config.num_key_value_heads
    assert read["config"]["rms_norm_eps"] == pytest.approx(config.rms_norm_eps)


def test_header(pico: Path, tmp_path: Path) -> None:
    config = json.loads((pico / "config.json").read_text())
    fields = package.GGUFReader(gguf(pico, tmp_path / "m.gguf")).fields
    found = {name: fields[name].contents() for name in fields if not name.startswith("GGUF")}
    assert found["general.architecture"] == "llama"
    assert found["llama.block_count"] == config["num_hidden_layers"]
    assert found["llama.attention.head_count_kv"] == config["num_key_value_heads"]
    assert found["llama.rope.freq_base"] == config["rope_parameters"]["rope_theta"]
    assert found["llama.context_length"] == config["max_position_embeddings"]
    assert found["tokenizer.ggml.pre"] == "smollm"
    assert found["tokenizer.ggml.add_bos_token"] is False
    # Without a begin token of its own llama.cpp would take id 11.
    assert found["tokenizer.ggml.bos_token_id"] == found["tokenizer.ggml.eos_token_id"] == 1
    assert len(found["tokenizer.ggml.tokens"]) == config["vocab_size"]


@pytest.mark.parametrize("quantize", ["f32", "f16", "q8_0"])
def test_same_bytes_again(pico: Path, tmp_path: Path, quantize: str) -> None:
    first = gguf(pico, tmp_path / "a.gguf", quantize=quantize)  # type: ignore[arg-type]
    second = gguf(pico, tmp_path / "b.gguf", quantize=quantize)  # type: ignore[arg-type]
    assert digest.file(first) == digest.file(second)


def test_q8_0_is_within_half_a_step(pico: Path, tmp_path: Path) -> None:
    path = gguf(pico, tmp_path / "m.gguf", quantize="q8_0")
    source = load_file(pico / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].numpy()
    tensor = next(t for t in package.GGUFReader(path).tensors if t.name == "blk.1.ffn_down.weight")
    found = package.dequantize(tensor.data, tensor.tensor_type)
    step = np.abs(source.reshape(-1, 32)).max(1, keepdims=True) / 127
    error = np.abs(found - source).reshape(-1, 32)
    # Half a step, and up to 127 times the rounding (2^-11) of the float16 scale.
    assert (error <= step * (0.5 + 127 / 2048 + 1e-3)).all()
    assert error.max() > 0


def test_bits_and_what_is_kept(pico: Path, tmp_path: Path) -> None:
    """Rows of 48 are no multiple of 32: those matrices stay float16, and that is said."""
    odd = pico_llama(tmp_path / "odd", hidden=48)
    found = contents(gguf(odd, tmp_path / "odd.gguf", quantize="q8_0"), "q8_0")
    # feed-forward is 96 wide, so only the down projections have rows that fit.
    assert [name for name in found.kept if "ffn_down" in name] == []
    assert "token_embd.weight" in found.kept
    assert len(found.kept) == 2 * 6 + 1
    matrices, norms = {}, 0
    for name, tensor in load_file(odd / "model.safetensors").items():
        if tensor.dim() == 1:
            norms += tensor.numel()
        else:
            matrices[name] = tensor.numel()
    down = sum(size for name, size in matrices.items() if "down_proj" in name)
    bits = 32 * norms + 8.5 * down + 16 * (sum(matrices.values()) - down)
    assert found.bits_per_weight == pytest.approx(bits / (norms + sum(matrices.values())), abs=1e-3)
    assert contents(gguf(pico, tmp_path / "p.gguf", quantize="q8_0"), "q8_0").kept == []


def test_untied_head_is_written(tmp_path: Path) -> None:
    folder = pico_llama(tmp_path / "untied", tied=False)
    tensors = package.GGUFReader(gguf(folder, tmp_path / "m.gguf", quantize="f32")).tensors
    head = next(tensor for tensor in tensors if tensor.name == "output.weight")
    assert np.array_equal(head.data, load_file(folder / "model.safetensors")["lm_head.weight"])


def test_bfloat16_source(copied: Path, tmp_path: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    halved = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(halved, copied / "model.safetensors", metadata={"format": "pt"})
    found = package.GGUFReader(gguf(copied, tmp_path / "m.gguf", quantize="f32")).tensors[0]
    assert np.array_equal(found.data, halved["model.embed_tokens.weight"].float().numpy())


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("model.norm.weight", torch.full((64,), float("nan")), "not finite"),
        ("model.layers.0.mlp.up_proj.weight", torch.full((128, 64), 1e5), "quantize: f32"),
        ("model.layers.0.mlp.up_proj.weight", torch.zeros(64, 128), r"shape \(64, 128\)"),
        ("model.layers.0.self_attn.q_proj.bias", torch.zeros(64), r"q_proj\.bias"),
        ("model.norm.weight", None, r"no tensor model\.norm"),
    ],
)
def test_unfit_tensors(
    copied: Path, tmp_path: Path, name: str, value: torch.Tensor | None, told: str
) -> None:
    change(copied, name, value)
    with pytest.raises(UserError, match=told):
        gguf(copied, tmp_path / "m.gguf")


def test_large_values_fit_float32(copied: Path, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change(copied, name, torch.full((128, 64), 1e5))
    found = package.GGUFReader(gguf(copied, tmp_path / "m.gguf", quantize="f32")).tensors
    assert next(t for t in found if t.name == "blk.0.ffn_up.weight").data.max() == 1e5
