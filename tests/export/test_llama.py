"""Dimensions, names and the order of rotary rows, against the formulas written out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smelt.core.errors import UserError
from smelt.export.llama import Llama, read_llama, rotary_order, tensor_names

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def read(**changes: Any) -> Llama:
    return read_llama({**CONFIG, **changes}, Path("m"))


def test_rotary_rows_give_the_same_attention() -> None:
    """Halves rotation of (q, k) and pairs rotation of the reordered (q, k): equal products."""
    llama = read()
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 32)).astype(np.float32)
    query = draw.normal(size=(32, 32)).astype(np.float32)
    key = draw.normal(size=(16, 32)).astype(np.float32)
    layer = "model.layers.0.self_attn"
    query_pairs = rotary_order(f"{layer}.q_proj.weight", query, llama)
    key_pairs = rotary_order(f"{layer}.k_proj.weight", key, llama)
    angles = 10000.0 ** (-2 * np.arange(4) / 8)

    def halves(vector: Any, position: int) -> Any:
        a, b = vector[:4], vector[4:]
        c, s = np.cos(position * angles), np.sin(position * angles)
        return np.concatenate([a * c - b * s, b * c + a * s])

    def pairs(vector: Any, position: int) -> Any:
        a, b = vector[0::2], vector[1::2]
        c, s = np.cos(position * angles), np.sin(position * angles)
        return np.stack([a * c - b * s, b * c + a * s], 1).ravel()

    for head in range(4):
        rows, shared = slice(8 * head, 8 * head + 8), slice(8 * (head // 2), 8 * (head // 2) + 8)
        wanted = halves(query[rows] @ x, 5) @ halves(key[shared] @ y, 3)
        found = pairs(query_pairs[rows] @ x, 5) @ pairs(key_pairs[shared] @ y, 3)
        assert found == pytest.approx(wanted, rel=1e-5)
    assert rotary_order("model.layers.0.mlp.up_proj.weight", query, llama) is query


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, "Qwen2ForCausalLM"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial"),
    ],
)
def test_refusals(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        read(**changes)


def test_missing_key() -> None:
    data = {key: value for key, value in CONFIG.items() if key != "rms_norm_eps"}
    with pytest.raises(UserError, match="rms_norm_eps"):
        read_llama(data, Path("m"))


def test_theta_is_read_from_either_place() -> None:
    assert read().rope_theta == 10000.0
    assert read(rope_theta=5e5).rope_theta == 5e5
    assert read(rope_parameters={"rope_type": "default", "rope_theta": 3e5}).rope_theta == 3e5


def test_defaults_of_heads() -> None:
    llama = read(num_key_value_heads=None)
    assert (llama.kv_heads, llama.head_dim) == (4, 8)
    assert read(head_dim=16).head_dim == 16


def test_tensor_names() -> None:
    llama, untied = read(num_hidden_layers=1), read(num_hidden_layers=1, tie_word_embeddings=False)
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    parts += ["input_layernorm", "post_attention_layernorm"]
    names += [f"model.layers.0.{part}.weight" for part in parts]
    assert "output.weight" not in tensor_names(names, llama, Path("m"))
    assert tensor_names(names, untied, Path("m"))["output.weight"] == "lm_head.weight"
    with pytest.raises(UserError, match=r"q_proj\.bias"):
        tensor_names([*names, "model.layers.0.self_attn.q_proj.bias"], llama, Path("m"))
    with pytest.raises(UserError, match="no tensor lm_head"):
        tensor_names([name for name in names if "lm_head" not in name], untied, Path("m"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "wide"}, "a dimension that is no number"),
        ({"max_position_embeddings": [128]}, "a dimension that is no number"),
        ({"num_attention_heads": 0}, "a dimension that is no number"),
        ({"rope_parameters": "default"}, "rope_parameters is 'default'"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\]"),
        ({"architectures": 3}, "architecture 3"),
    ],
)
def test_values_of_a_wrong_kind(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"m/config.json: {message}"):
        read(**changes)
