"""Layers and blocks from tensor names of many architectures."""

import pytest

from smelt.checkpoint import layout


@pytest.mark.parametrize(
    ("name", "layer", "block"),
    [
        ("model.layers.3.self_attn.q_proj.weight", 3, "attention"),
        ("model.layers.3.self_attn.q_norm.weight", 3, "norm"),
        ("model.layers.12.mlp.experts.5.down_proj.weight", 12, "mlp"),
        ("model.layers.0.block_sparse_moe.gate.weight", 0, "mlp"),
        ("model.layers.0.input_layernorm.weight", 0, "norm"),
        ("transformer.h.7.attn.c_attn.bias", 7, "attention"),
        ("transformer.h.7.ln_1.weight", 7, "norm"),
        ("transformer.ln_f.weight", None, "norm"),
        ("transformer.wte.weight", None, "embedding"),
        ("gpt_neox.layers.1.attention.dense.weight", 1, "attention"),
        ("gpt_neox.embed_in.weight", None, "embedding"),
        ("embed_out.weight", None, "head"),
        ("encoder.block.2.layer.0.SelfAttention.q.weight", 2, "other"),
        ("blocks.4.mlp.fc1.weight", 4, "mlp"),
        ("model.embed_tokens.weight", None, "embedding"),
        ("model.norm.weight", None, "norm"),
        ("lm_head.weight", None, "head"),
        ("vision_tower.encoder.layers.9.mlp.fc1.weight", None, "other"),
        ("model.language_model.layers.9.mlp.up_proj.weight", 9, "mlp"),
    ],
)
def test_layer_and_block(name: str, layer: int | None, block: str) -> None:
    assert layout.layer_of(name) == layer
    assert layout.block_of(name) == block


def test_number_of_layers_ignores_the_vision_tower() -> None:
    names = ["model.layers.0.mlp.w", "model.layers.1.mlp.w", "vision_tower.layers.20.mlp.w"]
    assert layout.num_layers(names) == 2
    assert layout.num_layers(["wte.weight"]) == 0


def test_tie_facts() -> None:
    assert layout.declared_tied({"tie_word_embeddings": True})
    assert layout.declared_tied({"text_config": {"tie_word_embeddings": True}})
    assert not layout.declared_tied({})
    names = ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"]
    assert layout.head_and_embedding(names) == ("lm_head.weight", "model.embed_tokens.weight")
    assert layout.head_and_embedding(["transformer.wpe.weight"]) == (None, None)
