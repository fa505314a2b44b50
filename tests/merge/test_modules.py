"""Modules, towers, buffers and heads: which tensors a recipe is about."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smelt.checkpoint import layout
from smelt.core.errors import UserError
from tests.merge.test_whole_models import (
    VISION,
    arrays,
    folder,
    language_model,
    merged,
    planned,
    random,
    tower,
)

STEM = "model.language_model."
PAIR: dict[str, Any] = {"base_model": "vlm", "models": [{"model": "vlm2"}]}
UP, QKV = f"{STEM}layers.1.mlp.up_proj.weight", "model.visual.blocks.0.attn.qkv.weight"


@pytest.fixture
def towers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models with a vision tower, and a language model of the same shapes."""
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "vlm", language_model(STEM, 0) | tower(100), **VISION)
    folder(tmp_path / "vlm2", language_model(STEM, 30) | tower(130), **VISION)
    folder(tmp_path / "llm", language_model("model.", 60), model_type="qwen2", hidden_size=4)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [("mlp", UP, QKV), ("self_attn", f"{STEM}layers.0.self_attn.q_proj.weight", UP),
     ("visual", QKV, UP)],
)  # fmt: skip
def test_a_filter_may_be_about_one_module(
    towers: Path, pattern: str, inside: str, outside: str
) -> None:
    weight = [{"filter": pattern, "value": 0.0}, {"value": 1.0}]
    for level in ({"parameters": {"weight": weight}}, {}):
        keys = PAIR | level
        if not level:
            keys = PAIR | {"models": [{"model": "vlm2", "parameters": {"weight": weight}}]}
        values = {item.entry.name: item.values for item in planned(**keys).tensors}
        assert values[inside]["weight"] == [0.0]
        assert values[outside]["weight"] == [1.0]


def test_a_filter_of_the_recipe_may_be_about_one_of_its_modules(towers: Path) -> None:
    modules = {
        "text_decoder": {"models": [{"model": "vlm2"}]},
        "vision_tower": {"models": [{"model": "vlm2"}]},
    }
    weight = [{"filter": "mlp", "value": 0.0}, {"value": 1.0}]
    made = planned(base_model="vlm", modules=modules, parameters={"weight": weight})
    values = {item.entry.name: item.values for item in made.tensors if not item.copied}
    assert (values[UP]["weight"], values[QKV]["weight"]) == ([0.0], [1.0])
    with pytest.raises(UserError, match="the filter 'mpl' matches no tensor"):
        planned(base_model="vlm", modules=modules,
                parameters={"weight": [{"filter": "mpl", "value": 0}, {"value": 1}]})  # fmt: skip


def test_a_slice_may_repeat_a_filter_that_another_slice_is_about(models: Path) -> None:
    own = {"weight": [{"filter": "lm_head", "value": 0.5}, {"filter": "embed", "value": 0.25},
                      {"value": 1.0}]}  # fmt: skip
    config = json.loads((models / "base/config.json").read_text())
    for name in ("base", "math"):
        tensors = arrays(models / name)
        tensors["lm_head.weight"] = random(tensors["model.embed_tokens.weight"].shape, 3)
        (models / name / "model.safetensors").unlink()
        from smelt.checkpoint.writer import write_tensors

        write_tensors(models / name, tensors)
        config["tie_word_embeddings"] = False
        (models / name / "config.json").write_text(json.dumps(config))
    made = planned(
        base_model="base",
        slices=[
            {"sources": [{"model": "math", "layer_range": span}], "parameters": own}
            for span in ([0, 2], [2, 3])
        ],
    )
    values = {item.entry.name: item.values["weight"] for item in made.tensors}
    assert values["lm_head.weight"] == [0.5]
    assert values["model.embed_tokens.weight"] == [0.25]


def test_a_misspelt_module_is_an_error_with_the_nearest(towers: Path) -> None:
    """Hazard: it would merge nothing and look fine."""
    with pytest.raises(UserError, match=r"modules\.text_decodr: no tensor.*'text_decoder'"):
        planned(base_model="vlm", modules={"text_decodr": {"models": [{"model": "vlm2"}]}})


def test_two_modules_cannot_claim_one_tensor(towers: Path) -> None:
    entry = {"models": [{"model": "vlm2"}]}
    with pytest.raises(UserError, match=r"modules\.language_model: .*is in text_decoder too"):
        planned(base_model="vlm", modules={"text_decoder": entry, "language_model": entry})


def test_what_only_the_vlm_has_beside_its_layers_is_kept(towers: Path) -> None:
    from smelt.checkpoint.writer import write_tensors

    tensors = arrays(towers / "vlm") | {"model.image_newline": random((4,), 9)}
    (towers / "vlm" / "model.safetensors").unlink()
    write_tensors(towers / "vlm", tensors)
    made = merged(towers / "out", base_model="vlm", models=[{"model": "llm"}])
    np.testing.assert_array_equal(made["model.image_newline"], tensors["model.image_newline"])


def test_towers_that_the_base_has_not_are_left_out_with_a_warning(towers: Path) -> None:
    made = planned(base_model="llm", models=[{"model": "vlm"}])
    assert any("3 tensors of vlm are left out (projector, vision)" in w for w in made.warnings)
    assert not any("visual" in item.entry.name for item in made.tensors)


def test_buffers_of_older_checkpoints_are_kept_from_the_base_or_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    frequencies = np.array([1.0, 0.5], dtype=np.float32)
    folder(tmp_path / "old", language_model("model.", 0) | {buffer: frequencies})
    folder(tmp_path / "new", language_model("model.", 30))
    double = {"weight": 2.0, "normalize": False}
    entries = [{"model": "old"}, {"model": "new"}]
    made = merged(tmp_path / "a", merge_method="linear", models=entries, parameters=double)
    np.testing.assert_array_equal(made[buffer], frequencies)
    made = merged(tmp_path / "b", merge_method="linear", models=entries[::-1], parameters=double)
    assert buffer not in made


def test_an_impossible_layer_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    far = {"model.layers.900000000.mlp.up_proj.weight": random((2, 2), 0)}
    for name in ("a", "b"):
        folder(tmp_path / name, far)
    with pytest.raises(UserError, match=r"a tensor '.*900000000.*' among 1 tensors"):
        planned(merge_method="linear", models=[{"model": "a"}, {"model": "b"}])


def test_a_head_is_the_matrix_not_its_bias_or_a_layer_before_it() -> None:
    names = ["lm_head.bias", "lm_head.dense.weight", "lm_head.decoder.weight", "x.wte.weight"]
    assert layout.head_and_embedding(names) == ("lm_head.decoder.weight", "x.wte.weight")
    assert layout.head_and_embedding(["lm_head.bias", "lm_head.weight"]) == ("lm_head.weight", None)
    assert layout.head_and_embedding(["backbone.embeddings.weight"])[1] is not None


def test_lists_by_layer_are_stacked_with_the_layers(models: Path) -> None:
    for name in ("math", "code"):
        path = models / name / "config.json"
        lists = {"no_rope_layers": [0, 0, 1], "other": [1, 2]}
        path.write_text(json.dumps(json.loads(path.read_text()) | lists))
    made = planned(
        merge_method="passthrough",
        slices=[
            {"sources": [{"model": "math", "layer_range": [1, 3]}]},
            {"sources": [{"model": "code", "layer_range": [0, 3]}]},
        ],
    )
    assert made.config["no_rope_layers"] == [0, 1, 0, 0, 1]
    assert made.config["other"] == [1, 2]


def test_nested_rope_parameters_are_compared(models: Path) -> None:
    nested = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    for name, theta in (("base", 1e6), ("math", 1e6), ("code", 5e5)):
        path = models / name / "config.json"
        rope = nested | {"full_attention": {"rope_theta": theta}}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_parameters": rope}))
    made = planned(base_model="base", models=[{"model": "math"}, {"model": "code"}])
    (warning,) = [text for text in made.warnings if "rope" in text]
    assert warning.startswith("rope_scaling differs: ")
    assert "in code" in warning
