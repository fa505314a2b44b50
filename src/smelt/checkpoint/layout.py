"""Where a tensor sits in a network, told from its name alone: layer, block, tied head."""

import re
from collections.abc import Iterable
from typing import Any, Literal

Block = Literal["attention", "mlp", "norm", "embedding", "head", "other"]

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
# The towers of a vision-language model count their own layers; merges move the language model.
_TOWER = re.compile(r"(?:^|\.)(?:vision|visual|image|audio)[^.]*\.")
_EMBEDDING = ("embed_tokens", "wte", "wpe", "word_embeddings", "tok_embeddings", "embed_in")
_HEAD = ("lm_head", "embed_out", "output")
_ATTENTION = ("self_attn", "attn", "attention", "self_attention", "linear_attn")
_MLP = ("mlp", "feed_forward", "ffn", "moe", "block_sparse_moe", "experts")


def layer_of(name: str) -> int | None:
    """The layer index in a tensor name, None outside the stack of layers (or in a vision tower).

    >>> layer_of("model.layers.11.mlp.experts.3.w1.weight"), layer_of("transformer.h.0.ln_1.bias")
    (11, 0)
    >>> layer_of("lm_head.weight") is None
    True
    """
    if _TOWER.search(name):
        return None
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def with_layer(name: str, layer: int) -> str:
    """The name of the same tensor in another layer.

    >>> with_layer("model.layers.11.mlp.experts.3.w1.weight", 2)
    'model.layers.2.mlp.experts.3.w1.weight'
    """
    found = _LAYER.search(name)
    if found is None:
        raise ValueError(f"{name} is in no layer")
    return f"{name[: found.start(1)]}{layer}{name[found.end(1) :]}"


def num_layers(names: Iterable[str]) -> int:
    """Number of layers of a checkpoint: one more than the largest layer index, 0 without layers."""
    return max((layer + 1 for name in names if (layer := layer_of(name)) is not None), default=0)


def block_of(name: str) -> Block:
    """The part of a network that a tensor belongs to.

    >>> [block_of(f"model.{part}.weight") for part in ("embed_tokens", "layers.0.mlp.up_proj")]
    ['embedding', 'mlp']
    >>> block_of("lm_head.weight"), block_of("model.layers.0.post_attention_layernorm.weight")
    ('head', 'norm')
    """
    if _TOWER.search(name):
        return "other"
    parts = name.split(".")
    if any("norm" in part or re.fullmatch(r"ln_?\w?", part) for part in parts):
        return "norm"
    if any(part in _EMBEDDING for part in parts):
        return "embedding"
    if layer_of(name) is None:
        return "head" if any(part in _HEAD for part in parts) else "other"
    if any(part in _ATTENTION for part in parts):
        return "attention"
    return "mlp" if any(part in _MLP for part in parts) else "other"


def declared_tied(config: dict[str, Any]) -> bool:
    """Whether config.json says that head and token embedding are one matrix."""
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    return bool(config.get("tie_word_embeddings", inner))


def head_and_embedding(names: Iterable[str]) -> tuple[str | None, str | None]:
    """Names of the head and of the token embedding in a checkpoint (None when absent)."""
    listed = list(names)
    head = next((name for name in listed if block_of(name) == "head"), None)
    embedding = next(
        (name for name in listed if block_of(name) == "embedding" and "wpe" not in name), None
    )
    return head, embedding
