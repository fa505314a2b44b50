"""Where a tensor sits in a network, told from its name alone: layer, block, tied head."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

Block = Literal["attention", "mlp", "norm", "embedding", "head", "other"]

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d{1,9})\.")
# The towers of a vision-language model count their own layers; merges move the language model.
_TOWER = re.compile(r"(?:^|\.)(?:vision|visual|image|audio)[^.]*\.")
_PROJECTOR = ("multi_modal_projector", "merger", "deepstack_merger", "connector", "projector")
_MODULES = {
    "text": ("text", "text_decoder", "language_model", "default"),
    "vision": ("vision", "vision_tower", "vision_model", "vision_transformer", "visual"),
    "audio": ("audio", "audio_tower"),
    "projector": ("projector", "multi_modal_projector", "connector"),
}
MODULE_NAMES = tuple(word for words in _MODULES.values() for word in words)
"""The words for modules that are known whatever the names of tensors."""
_EMBEDDING = ("embed_tokens", "wte", "wpe", "word_embeddings", "tok_embeddings", "embed_in")
_HEAD = ("lm_head", "embed_out", "output")
_ATTENTION = ("self_attn", "attn", "attention", "self_attention", "linear_attn")
_MLP = ("mlp", "feed_forward", "ffn", "moe", "block_sparse_moe", "experts")


@cache
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


@cache
def tower_layer_of(name: str) -> int | None:
    """The layer index in a tensor name, counted in its own tower if it stands in one.

    >>> tower_layer_of("model.visual.blocks.3.attn.qkv.weight")
    3
    """
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


@cache
def module_of(name: str) -> str:
    """The module of a multi-module model: "text", "vision", "audio" or "projector".

    >>> [module_of(f"model.{one}.weight") for one in ("layers.0.mlp.up_proj", "visual.merger.norm")]
    ['text', 'projector']
    >>> module_of("vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight")
    'vision'
    """
    parts = name.split(".")
    if any(part.startswith(_PROJECTOR) for part in parts):
        return "projector"
    tower = _TOWER.search(name)
    if tower is None:
        return "text"
    return "audio" if "audio" in tower.group(0) else "vision"


def in_module(name: str, module: str) -> bool:
    """Whether a tensor belongs to a module as a recipe names it (mergekit's names and ours).

    >>> in_module("model.layers.0.mlp.up_proj.weight", "text_decoder")
    True
    >>> in_module("encoder.block.0.layer.0.layer_norm.weight", "encoder")
    True
    """
    for kind, words in _MODULES.items():
        if module in words:
            return module_of(name) == kind
    return module in name.split(".")


def text_prefix(names: Iterable[str]) -> str:
    """What stands before `layers.0.` in the names of the language model ("" without layers).

    >>> text_prefix(["model.visual.blocks.0.a", "model.language_model.layers.0.mlp.up_proj.weight"])
    'model.language_model.'
    """
    found = (_LAYER.search(name) for name in names if module_of(name) == "text")
    stems = Counter(
        match.string[: match.start(1)].rstrip(".").rpartition(".")[0] for match in found if match
    )
    stem = stems.most_common(1)[0][0] if stems else ""
    return f"{stem}." if stem else ""


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


@cache
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
    if any(part in _EMBEDDING for part in parts) or parts[-2:] == ["embeddings", "weight"]:
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
    """Names of the head's and of the token embedding's matrix in a checkpoint (None when absent).

    >>> head_and_embedding(["lm_head.bias", "lm_head.dense.weight", "bert.embed_tokens.weight"])
    (None, 'bert.embed_tokens.weight')
    """
    listed = list(names)
    head = next((name for name in listed if _is_head(name)), None)
    embedding = next(
        (name for name in listed if block_of(name) == "embedding" and "wpe" not in name), None
    )
    return head, embedding


def _is_head(name: str) -> bool:
    *_, owner, last = ["", *name.split(".")]
    return block_of(name) == "head" and last == "weight" and owner in (*_HEAD, "decoder")


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a constant that older checkpoints store: rotary frequencies, masks.

    >>> is_buffer("model.layers.0.self_attn.rotary_emb.inv_freq", (64,))
    True
    >>> is_buffer("h.0.attn.bias", (1, 1, 8, 8)), is_buffer("h.0.attn.bias", (8,))
    (True, False)
    """
    if name.endswith(("rotary_emb.inv_freq", "attn.masked_bias")):
        return True
    return name.endswith("attn.bias") and len(shape) == 4
