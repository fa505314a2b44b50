"""Pico models: real Hugging Face folders of two layers, made in milliseconds."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from smelt.checkpoint.tokenizer import open_tokenizer, train_tokenizer

TEXTS = [
    "max[352]*1-2=5*1-2=5-2=3.",
    "rev[123]=[321].",
    "T&!F=T&T=T.",
    "The quick brown fox jumps over the lazy dog, then sleeps.",
    "def add(a, b):\n    return a + b\n",
] * 20


def pico_tokenizer(folder: Path, *, kind: str = "byte_bpe", vocab: int = 320) -> Path:
    """A small tokenizer folder of either kind."""
    train_tokenizer(TEXTS, folder, kind=kind, vocab_size=vocab)  # type: ignore[arg-type]
    return folder


def pico_llama(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 32,
    vocab: int = 320,
    tied: bool = True,
    kind: str = "byte_bpe",
    context: int = 128,
) -> Path:
    """A random Llama with its tokenizer, as a checkpoint folder."""
    pico_tokenizer(folder, kind=kind, vocab=vocab)
    tokenizer = open_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
