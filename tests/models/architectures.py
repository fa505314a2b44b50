"""Small random networks of many kinds over one pico tokenizer."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from smelt.checkpoint.tokenizer import TextTokenizer

Config = Callable[[TextTokenizer], Any]


def _config(name: str, **more: Any) -> Config:
    def make(tokenizer: TextTokenizer) -> Any:
        keys = {
            "vocab_size": tokenizer.size, "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 64,
            "max_position_embeddings": 256, "initializer_range": 0.2, "bos_token_id": None,
            "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id,
        }  # fmt: skip
        return getattr(transformers, name)(**keys | more)

    return make


def _own(name: str, **keys: Any) -> Config:
    def make(tokenizer: TextTokenizer) -> Any:
        ends = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
        return getattr(transformers, name)(vocab_size=tokenizer.size, **ends, **keys)

    return make


# Rotary, learned and ALiBi positions; windows shorter than the prompts; a recurrent state.
KINDS: dict[str, Config] = {
    "llama": _config("LlamaConfig", num_key_value_heads=2),
    "qwen2": _config("Qwen2Config"),
    "gemma2, window 16": _config("Gemma2Config", sliding_window=16, head_dim=8),
    "mistral, window 16": _config("MistralConfig", sliding_window=16),
    "gpt_neox": _config("GPTNeoXConfig"),
    "gpt2": _own("GPT2Config", n_embd=32, n_layer=2, n_head=4, n_positions=256,
                 initializer_range=0.2),
    "bloom": _own("BloomConfig", hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2),
    "qwen3_next": _config(
        "Qwen3NextConfig", head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
        linear_key_head_dim=8, linear_value_head_dim=8, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=16, shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
    ),
}  # fmt: skip


def network(kind: str, tokenizer: TextTokenizer, seed: int = 1) -> PreTrainedModel:
    """A random network of a kind."""
    torch.manual_seed(seed)
    model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(KINDS[kind](tokenizer))
    return model.float().train(False)


def greedy_ids(model: Any, ids: list[int], count: int) -> list[int]:
    """Argmax after argmax over one unpadded row, without a cache."""
    made = list(ids)
    for _ in range(count):
        with torch.no_grad():
            made.append(int(model(input_ids=torch.tensor([made])).logits[0, -1].argmax()))
    return made[len(ids) :]
