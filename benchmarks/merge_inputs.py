"""The inputs of benchmarks/merge.py: a Llama base with three fine-tunes, and three mixtures.

    python benchmarks/merge_inputs.py DIR bench

Shapes and distributions are those of the project's make_checkpoints.py. What is there is kept.
"""

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from smelt.checkpoint.writer import write_tensors

PRESETS = {
    "bench": {"hidden": 1024, "layers": 24, "wide": 4096, "kv": 1024, "vocab": 32000, "heads": 16},
    "tiny": {"hidden": 64, "layers": 4, "wide": 176, "kv": 32, "vocab": 512, "heads": 4},
}
SHARD_BYTES = 300_000_000
MODELS = ["base", "ft1", "ft2", "ft3"]


def make_models(folder: Path, preset: str) -> None:
    """Base and experts; an expert is the base plus noise of standard deviation 0.001."""
    size = PRESETS[preset]
    hidden, wide, kv, vocab = size["hidden"], size["wide"], size["kv"], size["vocab"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    parts: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide), "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    for layer in range(size["layers"]):
        shapes |= {f"model.layers.{layer}.{part}.weight": shape for part, shape in parts.items()}
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}

    def normal(model: int, tensor: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return np.random.default_rng([model, tensor]).standard_normal(shape, np.float32)

    for model, name in enumerate(MODELS):
        tensors = {}
        for number, (tensor, shape) in enumerate(shapes.items()):
            values = 0.02 * normal(0, number, shape) if len(shape) > 1 else np.ones(shape, "f4")
            if model:
                values += 0.001 * normal(model, number, shape)
            tensors[tensor] = values.astype(ml_dtypes.bfloat16)
        write_tensors(folder / name, tensors, max_shard_bytes=SHARD_BYTES)
        config = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": hidden, "intermediate_size": wide, "vocab_size": vocab,
            "num_hidden_layers": size["layers"], "num_attention_heads": size["heads"],
            "num_key_value_heads": kv * size["heads"] // hidden, "rms_norm_eps": 1e-5,
            "head_dim": hidden // size["heads"], "tie_word_embeddings": False,
            "max_position_embeddings": 2048, "torch_dtype": "bfloat16",
        }  # fmt: skip
        (folder / name / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        _tokenizer(folder / name, vocab)


def _tokenizer(folder: Path, vocab: int) -> None:
    """Bytes and filler up to the vocabulary size."""
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"filler{number}" for number in range(vocab - len(tokens))]
    bpe = models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=[])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[:4])
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    data = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(data, indent=2) + "\n")


def mixture(preset: str) -> list[str]:
    """Names of a mixture's tensors: 18,867 in 48 layers of 128 experts."""
    layers, experts = (48, 128) if preset == "bench" else (4, 8)
    attention = ["q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"]
    parts = [f"self_attn.{part}" for part in attention]
    parts += ["mlp.gate", "input_layernorm", "post_attention_layernorm"]
    for expert in range(experts):
        parts += [f"mlp.experts.{expert}.{part}_proj" for part in ("gate", "up", "down")]
    names = [f"model.layers.{layer}.{part}.weight" for layer in range(layers) for part in parts]
    return [*names, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]


def make_mixtures(folder: Path, preset: str) -> None:
    """Three mixtures of experts with very many, tiny tensors."""
    layers = 48 if preset == "bench" else 4
    for model in range(3):
        value = np.full((4, 4), model + 1.0, np.float32)
        write_tensors(folder / f"moe{model}", dict.fromkeys(mixture(preset), value))
        config = {"model_type": "qwen3_moe", "hidden_size": 4, "num_hidden_layers": layers}
        (folder / f"moe{model}" / "config.json").write_text(json.dumps(config))


def main(folder: Path, preset: str) -> None:
    """Make what is missing."""
    if not all((folder / name / "config.json").is_file() for name in MODELS):
        make_models(folder, preset)
    if not (folder / "moe2" / "config.json").is_file():
        make_mixtures(folder, preset)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
