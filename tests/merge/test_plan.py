"""Plans: mergekit's YAML resolved per tensor, and every bad input refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from smelt.checkpoint.reader import SINGLE, Checkpoint
from smelt.core.errors import UserError
from smelt.merge.describe import describe
from smelt.merge.plan import MergePlan, plan
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
    assert {item.entry.dtype for item in made.tensors} == {"F16"}
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
        ({"models": [{"model": "math+lora"}]}, "lora: no such folder"),
        ({"models": [{"model": "math@main"}]}, r"models\[0\]\.model.*the local folder 'math'"),
        ({"models": [{"model": {"path": "math"}}]}, r"models\[0\]\.model.*unknown key"),
        ({"models": [{"model": "math", "wieght": 1}]}, r"models\[0\]\.wieght: unknown key"),
        ({"models": [{"model": "math"}, {"model": "math"}]}, r"models\[1\]: math stands twice"),
        ({"models": [{"model": "base"}]}, "0 models. Expected at least 1 for ties"),
        ({"models": [{"model": "math", "parameters": {"lambda": 1}}]}, "set for one model"),
        ({"models": None}, "none of models, slices, modules"),
        ({"modules": {"x": 1}}, r"modules\.x: found 1"),
        ({"base_model": None}, "no base_model, which ties needs"),
        ({"tokenizer_source": "nope"}, "nope: no such folder"),
        ({"tokenizer": {"source": "base", "tokns": {}}}, r"tokenizer\.tokns.*'tokens'"),
        ({"chat_template": "chatmml"}, "chat_template: found 'chatmml'.*'chatml'"),
        ({"out_dtype": "int8"}, r"out_dtype: found 'int8'"),
        ({"merge_method": "slerp", "models": [{"model": "math"}, {"model": "code"}]}, "3 models"),
        ({"merge_method": "sce", "parameters": {"rule": "papr"}}, "rule: found 'papr'"),
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
    warned = _plan(stack([0, 2], residual_weight=0.5)).warnings
    assert "r.yaml: slices[0].residual_weight has no effect, in mergekit as here" in warned
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


def _rename_tokens(path: Path, count: int) -> None:
    """Give other meanings to the last ids of a tokenizer."""
    data = json.loads(path.read_text())
    names = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)[-count:]
    for old in names:
        data["model"]["vocab"][f"{old}\u4e00"] = data["model"]["vocab"].pop(old)
    data["model"]["merges"] = []
    path.write_text(json.dumps(data))


def test_another_tokenizer_is_refused_and_a_few_tokens_are_a_warning(models: Path) -> None:
    _rename_tokens(models / "code/tokenizer.json", 1)
    (warning,) = _plan(_task("math", "code")).warnings
    assert "the vocabulary of code differs from base: id " in warning
    assert "tokenizer_source: union would move them" in warning
    _rename_tokens(models / "code/tokenizer.json", 40)
    with pytest.raises(UserError, match=r"another vocabulary than base: id .*union"):
        _plan(_task("math", "code"))


def test_union_moves_the_rows_that_mean_other_tokens(models: Path) -> None:
    from smelt.merge.apply import merge_to_folder

    before = Checkpoint.open(models / "code").array("model.embed_tokens.weight")
    _rename_tokens(models / "code/tokenizer.json", 2)
    made = _plan(_task("code", merge_method="linear", base_model=None, tokenizer_source="union"))
    assert made.vocabulary is not None
    merge_to_folder(made, models / "alone")
    made = _plan(_task("code", parameters={"weight": 1.0}, tokenizer_source="union"))
    merge_to_folder(made, models / "out")
    size = len(before)
    after = Checkpoint.open(models / "out").array("model.embed_tokens.weight")
    assert after.shape == (size + 2, before.shape[1])
    np.testing.assert_allclose(after[: size - 2], before[: size - 2], atol=1e-6)
    np.testing.assert_allclose(after[size:], before[size - 2 :], atol=1e-6)
    base = Checkpoint.open(models / "base").array("model.embed_tokens.weight")
    # Tokens that only the base has: its row, whatever the weights.
    np.testing.assert_allclose(after[size - 2 : size], base[size - 2 :], atol=1e-6)
    assert json.loads((models / "out/config.json").read_text())["vocab_size"] == size + 2


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
    assert made.tensors[0].values["density"] == 0.1
    both = {"select_topk": 0.1, "density": 0.1}
    with pytest.raises(UserError, match="the same as 'density'"):
        _plan(_task("math", merge_method="sce", parameters=both))


def test_plan_opens_no_missing_side_files(models: Path) -> None:
    shutil.copytree(models / "code", models / "bare")
    (models / "bare/tokenizer.json").unlink()
    made = _plan(_task("math", "bare"))
    assert made.warnings == ["bare has no tokenizer.json, its tokens cannot be compared"]
