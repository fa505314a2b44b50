"""Llama checkpoints as GGUF sees them: dimension keys, tensor names and the order of rotary rows.

Names follow `gguf.get_tensor_name_map`; written out here because an unknown tensor must be an
error, never a guess.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smelt.core.errors import UserError

_PARTS = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Llama:
    """Dimensions of a Llama network."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    rms_norm_eps: float
    rope_theta: float
    tied: bool


def read_llama(config: dict[str, Any], folder: Path) -> Llama:
    """The dimensions in a config.json. Raises UserError for what we cannot write as GGUF."""
    where = folder / "config.json"
    found = config.get("architectures") or [config.get("model_type")]
    found = found if isinstance(found, list) else [found]
    if config.get("model_type") != "llama" or found not in (["LlamaForCausalLM"], ["llama"]):
        raise UserError(where, f"architecture {', '.join(map(str, found))}", "LlamaForCausalLM")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise UserError(where, f"{key} is true", "a Llama without biases, to export it as GGUF")
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(where, f"hidden_act {config['hidden_act']!r}", "silu")
    rope, more = (config.get(key) or {} for key in ("rope_parameters", "rope_scaling"))
    for key, entry in (("rope_parameters", rope), ("rope_scaling", more)):
        if not isinstance(entry, dict):
            raise UserError(where, f"{key} is {entry!r}", "a mapping")
    scaling = {**rope, **more}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise UserError(where, f"rope scaling '{kind}'", "no rope scaling, to export it as GGUF")
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise UserError(where, f"partial_rotary_factor {partial}", "1.0")
    try:
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        return Llama(
            vocab_size=int(config["vocab_size"]),
            hidden_size=hidden,
            intermediate_size=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            context=int(config["max_position_embeddings"]),
            rms_norm_eps=float(config["rms_norm_eps"]),
            # transformers 5 moved it; a reader of the old place alone silently gets 10000.
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise UserError(where, f"no key {error}", "a complete Llama configuration") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(where, f"a dimension that is no number ({error})", "numbers") from error


def tensor_names(names: Iterable[str], llama: Llama, folder: Path) -> dict[str, str]:
    """GGUF name -> checkpoint name, in file order. Raises UserError for unknown or missing ones."""
    given = {name for name in names if not name.endswith("rotary_emb.inv_freq")}
    if llama.tied:
        given.discard("lm_head.weight")  # llama.cpp takes the embedding when no output is there
    wanted = {gguf: name for name, gguf in _WHOLE.items() if name != "lm_head.weight"}
    if not llama.tied:
        wanted["output.weight"] = "lm_head.weight"
    for layer in range(llama.layers):
        for part, gguf in _PARTS.items():
            wanted[f"blk.{layer}.{gguf}"] = f"model.layers.{layer}.{part}"
    unknown = sorted(given - set(wanted.values()))
    missing = [name for name in wanted.values() if name not in given]
    if unknown:
        raise UserError(folder, f"tensor {unknown[0]}", "only the tensors of a plain Llama")
    if missing:
        raise UserError(folder, f"no tensor {missing[0]}", "a complete Llama checkpoint")
    return wanted


def shape_of(name: str, llama: Llama) -> tuple[int, ...]:
    """The shape that the configuration demands of a checkpoint tensor."""
    hidden, inner = llama.hidden_size, llama.intermediate_size
    query, value = llama.heads * llama.head_dim, llama.kv_heads * llama.head_dim
    match = _LAYER.fullmatch(name)
    part = match.group(2).removesuffix(".weight") if match else name
    shapes = {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (value, hidden),
        "self_attn.v_proj": (value, hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "model.embed_tokens.weight": (llama.vocab_size, hidden),
        "lm_head.weight": (llama.vocab_size, hidden),
    }
    return shapes.get(part, (hidden,))


def rotary_order(
    name: str, weight: npt.NDArray[np.float32], llama: Llama
) -> npt.NDArray[np.float32]:
    """Query and key rows (head_dim rows a head) from two halves to interleaved pairs.

    transformers rotates row i of a head with row i + head_dim/2; GGUF's llama rotates 2i with
    2i + 1. Other tensors are returned as they are.
    """
    heads = {"q_proj": llama.heads, "k_proj": llama.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    halves = weight.reshape(heads, 2, llama.head_dim // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
