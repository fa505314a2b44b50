"""The tiny checkpoints on which whole merges by both tools are compared."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer
from transformers import LlamaConfig, Qwen2_5_VLConfig

from smelt.checkpoint.tokenizer import open_tokenizer
from tests.adapters import write_adapter
from tests.pico import pico_tokenizer
from tests.weights import write_checkpoint

HIDDEN, LAYERS, WIDE, HEADS = 64, 4, 176, 4
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
NAMES = ["base", "e1", "e2", "e3"]
ADDED: dict[str, list[str]] = {
    "base": [],
    "e1": ["<|im_start|>", "<|im_end|>"],
    "e2": ["<|im_end|>", "<tool>"],
}
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def shapes(rows: int, *, tied: bool, stem: str = "model.") -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama of HIDDEN columns."""
    half = HIDDEN // 2
    parts: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (half, HIDDEN),
        "self_attn.v_proj": (half, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (WIDE, HIDDEN), "mlp.up_proj": (WIDE, HIDDEN),
        "mlp.down_proj": (HIDDEN, WIDE), "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }  # fmt: skip
    found: dict[str, tuple[int, ...]] = {f"{stem}embed_tokens.weight": (rows, HIDDEN)}
    for layer in range(LAYERS):
        found |= {f"{stem}layers.{layer}.{part}.weight": shape for part, shape in parts.items()}
    found[f"{stem}norm.weight"] = (HIDDEN,)
    if not tied:
        found["lm_head.weight"] = (rows, HIDDEN)
    return found


def weights(
    model: int, sizes: dict[str, tuple[int, ...]], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Model 0: normal numbers of deviation 0.02, norms 1. Model k: that plus noise of 0.001 k."""
    tensors = {}
    for number, (name, shape) in enumerate(sizes.items()):
        start = np.random.default_rng([0, number]).standard_normal(shape)
        values = 1 + 0.001 * start if len(shape) == 1 else 0.02 * start
        if model:
            noise = np.random.default_rng([model, number]).standard_normal(shape)
            values = values + 0.001 * model * noise
        tensors[name] = torch.from_numpy(values).to(dtype)
    return tensors


def model(
    folder: Path, number: int, *, dtype: str = "f32", tied: bool = False, shards: bool = False,
    added: Sequence[str] = (), template: str | None = None, kind: str = "byte_bpe",
) -> None:  # fmt: skip
    """One checkpoint folder with tokenizer; `added` tokens have rows of their own."""
    pico_tokenizer(folder, kind=kind)
    if added:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in added])
        tokenizer.save(str(folder / "tokenizer.json"))
    if template:
        path = folder / "tokenizer_config.json"
        data = json.loads(path.read_text()) | {"chat_template": template}
        path.write_text(json.dumps(data))
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows, opened = raw.get_vocab_size(), open_tokenizer(folder)
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"], vocab_size=rows, hidden_size=HIDDEN,
        intermediate_size=WIDE, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2, max_position_embeddings=128, tie_word_embeddings=tied,
        bos_token_id=opened.eos_id, eos_token_id=opened.eos_id, pad_token_id=opened.pad_id,
        dtype=DTYPES[dtype],
    )  # fmt: skip
    config.save_pretrained(folder)
    tensors = weights(number, shapes(rows, tied=tied), DTYPES[dtype])
    write_checkpoint(folder, tensors, max_shard_bytes=200_000 if shards else 10**9)
    (folder / "generation_config.json").write_text('{"max_new_tokens": 17}\n')


def adapter(folder: Path, base: Path) -> None:
    """A LoRA of rank 4 on some matrices of a base."""
    draw = np.random.default_rng(5)
    tensors = {}
    for layer in range(LAYERS):
        for part, out in (("self_attn.q_proj", HIDDEN), ("mlp.up_proj", WIDE)):
            stem = f"model.layers.{layer}.{part}"
            first, second = draw.normal(size=(4, HIDDEN)), draw.normal(size=(out, 4))
            tensors[f"{stem}.lora_A.weight"] = (0.01 * first).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = (0.05 * second).astype(np.float32)
    settings = {
        "base_model_name_or_path": str(base), "target_modules": ["q_proj", "up_proj"],
        "task_type": "CAUSAL_LM", "bias": "none",
    }  # fmt: skip
    write_adapter(folder, tensors, **settings)


def vision_shapes() -> dict[str, tuple[int, ...]]:
    """A Qwen2.5-VL of the older names: language model, two vision blocks, merger."""
    found = shapes(320, tied=False)
    for layer in range(LAYERS):
        for part, size in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2)):
            found[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = (size,)
    found["visual.patch_embed.proj.weight"] = (32, 3, 2, 4, 4)
    for block in range(2):
        stem = f"visual.blocks.{block}"
        sizes = {"attn.proj": (32, 32), "attn.qkv": (96, 32), "mlp.down_proj": (32, 48),
                 "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32)}  # fmt: skip
        for part, shape in sizes.items():
            found |= {f"{stem}.{part}.weight": shape, f"{stem}.{part}.bias": shape[:1]}
        found |= {f"{stem}.norm1.weight": (32,), f"{stem}.norm2.weight": (32,)}
    found["visual.merger.ln_q.weight"] = (32,)
    for part, shape in {"0": (128, 128), "2": (HIDDEN, 128)}.items():
        stem = f"visual.merger.mlp.{part}"
        found |= {f"{stem}.weight": shape, f"{stem}.bias": shape[:1]}
    return found


def vision_model(folder: Path, number: int) -> None:
    """A tiny vision-language model; its tensors need not run, only merge."""
    pico_tokenizer(folder)
    text = {
        "hidden_size": HIDDEN, "intermediate_size": WIDE, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS // 2, "vocab_size": 320,
    }  # fmt: skip
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
              "patch_size": 4, "out_hidden_size": HIDDEN}  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=False, dtype=torch.float32,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
    )  # fmt: skip
    config.save_pretrained(folder)
    write_checkpoint(folder, weights(number, vision_shapes(), torch.float32))


VARIANTS = {
    f"{dtype}-{'tied' if tied else 'untied'}-{'shards' if shards else 'one'}": (dtype, tied, shards)
    for dtype in DTYPES for tied in (False, True) for shards in (False, True)
}  # fmt: skip


def make_all(home: Path) -> None:
    """Every family: VARIANT/NAME, tokens/NAME, chat/NAME, and lora beside f32-untied-one."""
    for variant, (dtype, tied, shards) in VARIANTS.items():
        for number, name in enumerate(NAMES):
            model(home / variant / name, number, dtype=dtype, tied=tied, shards=shards)
    for number, (name, added) in enumerate(ADDED.items()):
        model(home / "tokens" / name, number, added=added)
        model(home / "pieces" / name, number, added=added, kind="sentencepiece_bpe")
        model(home / "chat" / name, number, template=CHAT if number else None)
    for name in ("tied", "untied"):
        shutil.copytree(home / f"f32-{name}-one" / "base", home / "mixed" / name)
    for number, name in enumerate(NAMES[:3]):
        vision_model(home / "vision" / name, number)
    adapter(home / "lora", home / "f32-untied-one" / "base")
