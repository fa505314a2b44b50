"""Plans: mergekit's YAML resolved per tensor, and every bad input refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from smelt.checkpoint.reader import SINGLE
from smelt.core.errors import UserError
from smelt.merge.plan import MergePlan, describe, plan
from smelt.merge.recipe import parse_recipe
from tests.merge.conftest import load, rewrite

TIES = """
models:
  - model: math
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: code
    parameters:
      density: 0.5
      weight:
        - filter: mlp
          value: [0, 0.3, 0.7]
        - filter: self_attn
          value: 0.4
        - value: 0.2
  - model: base
merge_method: ties
base_model: base
parameters:
  normalize: true
  int8_mask: true
  lambda: 0.9
dtype: float16
"""

SLERP = """
slices:
  - sources:
      - model: math
        layer_range: [0, 3]
      - model: code
        layer_range: [0, 3]
merge_method: slerp
base_model: math
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 1]
    - filter: mlp
      value: [1, 0.5, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: bfloat16
"""

STACK = """
slices:
  - sources:
      - model: math
        layer_range: [0, 2]
  - sources:
      - model: code
        layer_range: [1, 3]
        parameters:
          scale:
            - filter: o_proj
              value: 0.0
            - value: 1.0
merge_method: passthrough
"""


def _plan(text: str | dict[str, Any]) -> MergePlan:
    data = yaml.safe_load(text) if isinstance(text, str) else text
    return plan(parse_recipe(data, "r.yaml"), "r.yaml")


def _values(made: MergePlan) -> dict[str, dict[str, Any]]:
    return {item.entry.name: item.values for item in made.tensors}


def _task(*models: str, **more: Any) -> dict[str, Any]:
    return {"base_model": "base", "models": [{"model": name} for name in models], **more}


def test_ties_example(models: Path) -> None:
    made = _plan(TIES)
    values = _values(made)
    layer = "model.layers.{}.{}.weight".format
    assert values[layer(0, "mlp.up_proj")]["weight"] == [1.0, 0.0]
    assert values[layer(1, "mlp.up_proj")]["weight"] == [1.0, 0.3]
    assert values[layer(2, "mlp.up_proj")]["weight"] == [1.0, 0.7]
    assert values[layer(1, "self_attn.q_proj")]["weight"] == [1.0, 0.4]
    assert values["model.embed_tokens.weight"]["weight"] == [1.0, 0.2]
    assert values["model.embed_tokens.weight"]["density"] == [1.0, 0.5]
    assert values["model.norm.weight"]["density"] == [1.0, 0.5]
    assert values[layer(1, "input_layernorm")]["density"] == [0.7, 0.5]
    assert values[layer(2, "input_layernorm")]["density"] == [0.1, 0.5]
    assert {(v["lambda_"], v["normalize"]) for v in values.values()} == {(0.9, True)}
    assert {item.entry.dtype for item in made.tensors} == {torch.float16}
    assert [item.experts[0][0] for item in made.tensors[:1]] == ["math"]
    assert made.warnings == ["r.yaml: parameters.int8_mask has no effect on the numbers"]
    one = sum(item.entry.num_bytes for item in made.tensors)
    assert (made.bytes_written, made.bytes_read) == (one, 3 * 2 * one)


def test_slerp_example(models: Path) -> None:
    made = _plan(SLERP)
    values = _values(made)
    assert values["model.layers.0.self_attn.q_proj.weight"]["t"] == 0.0
    assert values["model.layers.2.self_attn.q_proj.weight"]["t"] == 1.0
    assert values["model.layers.1.mlp.up_proj.weight"]["t"] == 0.5
    assert values["model.norm.weight"]["t"] == 0.5
    assert [model for model, _ in made.tensors[0].experts] == ["math", "code"]
    assert made.config["num_hidden_layers"] == 3


def test_passthrough_stack(models: Path) -> None:
    made = _plan(STACK)
    sources = {item.entry.name: item.experts[0] for item in made.tensors}
    origin = [sources[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(4)]
    assert origin == [
        ("math", "model.layers.0.mlp.up_proj.weight"),
        ("math", "model.layers.1.mlp.up_proj.weight"),
        ("code", "model.layers.1.mlp.up_proj.weight"),
        ("code", "model.layers.2.mlp.up_proj.weight"),
    ]
    assert sources["model.embed_tokens.weight"][0] == "math"
    assert sources["model.norm.weight"][0] == "code"
    assert made.config["num_hidden_layers"] == 4
    values = _values(made)
    assert values["model.layers.0.self_attn.o_proj.weight"]["scale"] == [1.0]
    assert values["model.layers.3.self_attn.o_proj.weight"]["scale"] == [0.0]


def test_default_method_and_equal_shares(models: Path) -> None:
    made = _plan(_task("math", "code"))
    assert made.method.name == "task_arithmetic"
    assert _values(made)["model.norm.weight"]["weight"] == [0.5, 0.5]


def test_base_is_first_for_slerp(models: Path) -> None:
    listed = _plan(_task("code", "base", merge_method="slerp"))
    unlisted = _plan(_task("code", merge_method="slerp"))
    for made in (listed, unlisted):
        assert [model for model, _ in made.tensors[0].experts] == ["base", "code"]


def test_describe_shows_values_by_layers(models: Path) -> None:
    lines = describe(_plan(SLERP))
    assert lines[0] == "method slerp: 29 tensors, 3 layers"
    # The first layer's attention and the last one's mlp have t = 0.
    assert "attention 0, mlp 2 (7 tensors): math, code: t 0" in lines
    warned = describe(_plan(TIES))
    assert warned[-1].startswith("warning: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"densty": 1}}, r"parameters\.densty: unknown key.*'density'"),
        ({"parameters": {"normalise": True}}, r"parameters\.normalise: unknown key.*'normalize'"),
        ({"base_modl": "base"}, r"base_modl: unknown key.*'base_model'"),
        ({"merge_method": "tise"}, r"merge-method 'tise': no such plug-in.*'ties'"),
        ({"parameters": {"density": 1.5}}, r"parameters\.density: found 1\.5.*from 0 to 1"),
        ({"parameters": {"weight": "x"}}, r"parameters\.weight: found 'x'"),
        ({"parameters": {"normalize": 2}}, r"parameters\.normalize: found 2.*true or false"),
        ({"parameters": {"weight": []}}, r"parameters\.weight: invalid.*a list of numbers"),
        (
            {"parameters": {"weight": [{"filter": "mpl", "value": 1}]}},
            r"parameters\.weight: the filter 'mpl' matches no tensor.*'mlp'",
        ),
        ({"models": [{"model": "nope"}]}, "nope: no such folder"),
        ({"models": [{"model": "math+lora"}]}, r"models\[0\]\.model.*'model\+lora' is not supp"),
        ({"models": [{"model": "math@main"}]}, "'model@revision' is not supported yet"),
        ({"models": [{"model": {"path": "math"}}]}, "not supported yet"),
        ({"models": [{"model": "math", "wieght": 1}]}, r"models\[0\]\.wieght: unknown key"),
        ({"models": [{"model": "math"}, {"model": "math"}]}, r"models\[1\]: math stands twice"),
        ({"models": [{"model": "base"}]}, "0 models. Expected at least 1 for ties"),
        ({"models": [{"model": "math", "parameters": {"lambda": 1}}]}, "set for one model"),
        ({"models": None}, "neither models nor slices"),
        ({"modules": {"x": 1}}, r"modules: invalid.*not support this key of mergekit yet"),
        ({"base_model": None}, "no base_model, which ties needs"),
        ({"tokenizer_source": "union"}, "tokenizer_source: 'union' is not supported yet"),
        ({"tokenizer": {"source": "base", "tokens": {}}}, r"tokenizer\.tokens.*not support"),
        ({"chat_template": "chatml"}, "template name 'chatml' is not supported yet"),
        ({"out_dtype": "int8"}, r"out_dtype: found 'int8'"),
        ({"merge_method": "slerp", "models": [{"model": "math"}, {"model": "code"}]}, "3 models"),
        ({"merge_method": "sce", "parameters": {"variant": "papr"}}, "variant: found 'papr'"),
        ({"merge_method": "linear", "parameters": {"weight": 0}}, "weights sum to 0"),
    ],
)
def test_bad_recipes(models: Path, change: dict[str, Any], message: str) -> None:
    data = {"merge_method": "ties", **_task("math")} | change
    with pytest.raises(UserError, match=message):
        _plan({key: value for key, value in data.items() if value is not None})


def test_slices_that_do_not_fit(models: Path) -> None:
    def stack(*ranges: list[int], **more: Any) -> dict[str, Any]:
        names = ["math", "code"]
        sources = [
            {"model": name, "layer_range": one} for name, one in zip(names, ranges, strict=False)
        ]
        return {"slices": [{"sources": sources, **more}], "merge_method": "linear"}

    with pytest.raises(UserError, match=r"layer_range \[1, 4\] of a model with 3 layers"):
        _plan(stack([1, 4]))
    with pytest.raises(UserError, match="layer ranges of different lengths"):
        _plan(stack([0, 2], [0, 1]))
    with pytest.raises(UserError, match=r"layer_range: invalid.*counted from 0"):
        _plan(stack([2, 1]))
    with pytest.raises(UserError, match="residual_weight"):
        _plan(stack([0, 2], residual_weight=0.5))
    with pytest.raises(UserError, match="sources from different layers"):
        _plan(stack([0, 2], [1, 3]) | {"merge_method": "ties", "base_model": "base"})


def test_two_spellings_of_one_folder(models: Path) -> None:
    with pytest.raises(UserError, match="are the same folder"):
        _plan(_task("math", "./math"))


def test_shape_mismatch_names_tensor_shapes_and_models(models: Path) -> None:
    tensors = load(models / "code")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(8, 32)
    rewrite(models / "code", tensors)
    message = r"code: tensor '.*1.mlp.up_proj.weight' has shape \[8, 32\].*\[64, 32\], as in base"
    with pytest.raises(UserError, match=message):
        _plan(_task("math", "code"))


def test_missing_and_additional_tensors(models: Path) -> None:
    tensors = load(models / "code")
    gone = tensors.pop("model.layers.1.mlp.up_proj.weight")
    rewrite(models / "code", tensors)
    with pytest.raises(UserError, match=r"code: no tensor '.*1\.mlp\.up_proj.*math has"):
        _plan(_task("math", "code"))
    rewrite(models / "code", {**tensors, "model.layers.1.mlp.up_proj.weight": gone, "new": gone})
    with pytest.raises(UserError, match="math: no tensor 'new', which code has"):
        _plan(_task("math", "code"))


def test_other_number_of_layers(models: Path) -> None:
    tensors = {k: v for k, v in load(models / "code").items() if ".layers.2." not in k}
    rewrite(models / "code", tensors)
    with pytest.raises(UserError, match=r"code: 2 layers. Expected 3, as in math"):
        _plan(_task("math", "code"))


def _edit(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("key", "value"), [("num_attention_heads", 8), ("model_type", "qwen2"), ("head_dim", 16)]
)
def test_configs_that_make_averaging_meaningless(models: Path, key: str, value: Any) -> None:
    _edit(models / "code/config.json", **{key: value})
    with pytest.raises(UserError, match=f"code/config.json: {key} is {value}.*as in base"):
        _plan(_task("math", "code"))


def test_other_rope_theta_is_warned_about(models: Path) -> None:
    _edit(models / "code/config.json", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert _plan(_task("math", "code")).warnings == [
        "rope_theta differs: 500000.0 in code, 10000.0 in base"
    ]


def _edit_vocabulary(path: Path, old: str, new: str) -> None:
    data = json.loads(path.read_text())
    data["model"]["vocab"][new] = data["model"]["vocab"].pop(old)
    data["model"]["merges"] = []
    path.write_text(json.dumps(data))


def test_other_tokenizer(models: Path) -> None:
    _edit_vocabulary(models / "code/tokenizer.json", "a", "\u4e00")
    message = r"code/tokenizer\.json: another vocabulary than base: id \d+ is '\u4e00', not 'a'"
    with pytest.raises(UserError, match=message):
        _plan(_task("math", "code"))
    # Naming a source does not help: rows of the embedding would mean different tokens.
    with pytest.raises(UserError, match="moving embedding rows is not supported yet"):
        _plan(_task("math", "code", tokenizer_source="base"))


def test_longer_vocabulary_needs_a_named_source(models: Path) -> None:
    path = models / "code/tokenizer.json"
    data = json.loads(path.read_text())
    data["added_tokens"].append(dict(data["added_tokens"][0], id=10_000, content="<new>"))
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="a tokenizer_source that says which"):
        _plan(_task("math", "code"))
    made = _plan(_task("math", "code", tokenizer_source="code"))
    assert made.tokenizer == "code"
    assert any("vocabulary of base differs from code" in text for text in made.warnings)
    longer = _plan(_task("math", "code", tokenizer={"source": "base"}))
    assert longer.tokenizer == "base"


def test_truncated_expert(models: Path) -> None:
    data = (models / "code" / SINGLE).read_bytes()
    (models / "code" / SINGLE).write_bytes(data[:-100])
    with pytest.raises(UserError, match=r"code/model\.safetensors: truncated: tensor '"):
        _plan(_task("math", "code"))


def test_quantised_models_are_refused(models: Path) -> None:
    tensors = load(models / "code")
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(models / "code", tensors | {name: tensors[name].to(torch.float8_e4m3fn)})
    with pytest.raises(UserError, match=rf"'{name}' is quantised \(F8_E4M3\)"):
        _plan(_task("math", "code"))
    _edit(models / "math/config.json", quantization_config={"bits": 4})
    with pytest.raises(UserError, match="a quantised model"):
        _plan(_task("math"))


def test_donor_without_base_is_the_first_model(models: Path) -> None:
    """Hazard: mergekit takes it from a set, so that the hash seed decides."""
    entries = [{"model": "code"}, {"model": "math"}]
    assert _plan({"merge_method": "linear", "models": entries}).donor == "code"
    assert _plan({"merge_method": "linear", "models": entries[::-1]}).donor == "math"


def test_base_of_linear_is_no_hidden_input(models: Path) -> None:
    made = _plan(_task("math", "code", merge_method="linear"))
    assert [model for model, _ in made.tensors[0].experts] == ["math", "code"]
    assert made.warnings == ["linear takes only config and tokenizer from the base base"]


def test_mergekits_name_for_sce_density(models: Path) -> None:
    made = _plan(_task("math", merge_method="sce", parameters={"select_topk": 0.1}))
    assert made.tensors[0].values == {"density": 0.1, "variant": "mergekit"}
    both = {"select_topk": 0.1, "density": 0.1}
    with pytest.raises(UserError, match="the same as 'density'"):
        _plan(_task("math", merge_method="sce", parameters=both))


def test_plan_opens_no_missing_side_files(models: Path) -> None:
    shutil.copytree(models / "code", models / "bare")
    (models / "bare/tokenizer.json").unlink()
    made = _plan(_task("math", "bare"))
    assert made.warnings == ["bare has no tokenizer.json, its tokens cannot be compared"]
