"""Pico Llamas over the tokenizers that the tests train."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from smelt.fuse.capture import capture
from smelt.fuse.source import Source
from smelt.fuse.store import LogitStore
from tests.fuse.trained import trained

ROWS = [
    {"text": "2+2=4", "prompt": "2+2="},
    {"text": "The quick brown fox jumps over the dog.", "prompt": ""},
    {"text": "naïve café 你好\n\treturn 1234", "prompt": "naïve"},
    {"text": "def add(a, b):\n    return a + b", "prompt": "def add(a, b):\n"},
    {"text": "x", "prompt": ""},
    {"text": "<|end|></s>", "prompt": ""},
    {"text": "max[352]*1-2=5*1-2=5-2=3.", "prompt": "max[352]*1-2="},
]


def pico(name: str, seed: int = 0, *, spare: int = 0) -> Any:
    """A random model for one of the trained tokenizers; `spare` head columns beyond it."""
    tokenizer, eos = trained()[name]
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + spare,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    return LlamaForCausalLM(config).eval()


def stored(
    folder: Path, name: str, model: Any = None, *, rows: Any = ROWS, **options: Any
) -> LogitStore:
    """The store of a model (by default the pico one) over the rows."""
    tokenizer, eos = trained()[name]
    settings = {"top_k": 12, "batch_size": 3, "model_sha256": "m" * 64, "tokenizer_sha256": name}
    model = pico(name) if model is None else model
    return capture(model, tokenizer, rows, folder, eos_id=eos, **{**settings, **options})


def source(store: LogitStore, name: str, label: str) -> Source:
    """A store as a source."""
    tokenizer, eos = trained()[name]
    return Source(label, tokenizer, eos, store)


def plain_log_probs(model: Any, ids: Any) -> torch.Tensor:
    """[time vocab] log-probabilities of one unpadded sequence, in float64."""
    with torch.inference_mode():
        logits = model(input_ids=torch.as_tensor(ids)[None]).logits[0]
    return logits.double().log_softmax(-1)
