"""Small base checkpoints and PEFT adapter folders, written from arrays in memory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.checkpoint import peft
from smelt.checkpoint.adapter import Adapter, read_floats
from smelt.checkpoint.reader import SINGLE, Checkpoint
from smelt.checkpoint.writer import write_tensors

Arrays = dict[str, NDArray[Any]]
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Normal numbers, always the same for a shape and seed."""
    generator = np.random.default_rng([seed, *shape])
    return generator.standard_normal(shape, dtype=np.float32)


def write_model(folder: Path, tensors: Arrays, config: dict[str, Any] = LLAMA) -> Path:
    """A checkpoint folder with a config.json."""
    write_tensors(folder, tensors)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_adapter(folder: Path, tensors: Arrays, **settings: Any) -> Path:
    """An adapter folder; tensors by their names after `base_model.model.`."""
    write_tensors(folder, {peft.PREFIX + name: one for name, one in tensors.items()})
    (folder / SINGLE).rename(folder / peft.WEIGHTS)
    data = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **settings}
    (folder / peft.CONFIG).write_text(json.dumps(data))
    return folder


def llama_tensors(*, tied: bool = False) -> Arrays:
    """Two layers of hidden size 16 with square and oblong matrices and a bias."""
    tensors = {"model.embed_tokens.weight": floats(24, 16), "model.norm.weight": floats(16)}
    if not tied:
        tensors["lm_head.weight"] = floats(24, 16, seed=9)
    for layer in range(2):
        place = f"model.layers.{layer}"
        tensors[f"{place}.self_attn.q_proj.weight"] = floats(16, 16, seed=layer)
        tensors[f"{place}.self_attn.q_proj.bias"] = floats(16, seed=layer + 5)
        tensors[f"{place}.mlp.up_proj.weight"] = floats(40, 16, seed=layer)
        tensors[f"{place}.input_layernorm.weight"] = floats(16, seed=layer)
    return tensors


def adapted(adapter: Adapter, base: Checkpoint, *, block_rows: int = 7) -> Arrays:
    """Every tensor of the adapted model, read as a merge reads it: by blocks of rows."""
    result = {}
    for name in [*base.names(), *adapter.added]:
        stored = read_floats(adapter.replaces(name) or base.spec(adapter.source(name)))
        rows = stored.reshape(-1, stored.shape[-1]).copy()
        for start in range(0, len(rows), block_rows):
            adapter.add_to(name, start, rows[start : start + block_rows])
        result[name] = rows.reshape(stored.shape)
    return result
