"""Whole models: adapters on the fly, other vocabularies, towers of vision-language models, MoE."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from smelt.checkpoint.reader import SINGLE, Checkpoint
from smelt.checkpoint.writer import write_tensors
from smelt.core.errors import UserError
from smelt.merge.apply import merge_to_folder
from smelt.merge.model import Model
from smelt.merge.plan import MergePlan, plan
from smelt.merge.recipe import parse_recipe

Tensors = dict[str, NDArray[Any]]


def planned(**keys: Any) -> MergePlan:
    return plan(parse_recipe(keys, "r"), "r")


def merged(out: Path, **keys: Any) -> Tensors:
    merge_to_folder(planned(**keys), out)
    return arrays(out)


def arrays(folder: Path) -> Tensors:
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.array(name) for name in checkpoint.names()}


def folder(path: Path, tensors: Tensors, **config: Any) -> Path:
    path.mkdir()
    write_tensors(path, tensors)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return path


def random(shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def language_model(stem: str, seed: int, head: str = "lm_head.weight") -> Tensors:
    shapes: dict[str, tuple[int, ...]] = {f"{stem}embed_tokens.weight": (12, 4)}
    for layer in range(2):
        shapes[f"{stem}layers.{layer}.self_attn.q_proj.weight"] = (4, 4)
        shapes[f"{stem}layers.{layer}.mlp.up_proj.weight"] = (8, 4)
    shapes |= {f"{stem}norm.weight": (4,), head: (12, 4)}
    return {name: random(shape, seed + i) for i, (name, shape) in enumerate(shapes.items())}


def tower(seed: int) -> Tensors:
    names = ["blocks.0.attn.qkv", "blocks.1.attn.qkv", "merger.norm"]
    return {f"model.visual.{n}.weight": random((4, 4), seed + i) for i, n in enumerate(names)}


VISION = {"model_type": "qwen2_5_vl", "text_config": {"model_type": "qwen2", "hidden_size": 4}}


@pytest.fixture
def vlm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A VLM, another tuned from it, and a language model of the same shapes."""
    monkeypatch.chdir(tmp_path)
    stem = "model.language_model."
    folder(tmp_path / "vlm", language_model(stem, 0) | tower(100), **VISION)
    folder(tmp_path / "vlm2", language_model(stem, 30) | tower(130), **VISION)
    folder(tmp_path / "llm", language_model("model.", 60), model_type="qwen2", hidden_size=4)
    return tmp_path


def test_language_expert_goes_into_the_language_tower_and_the_rest_is_kept(vlm: Path) -> None:
    made = merged(
        vlm / "out", merge_method="linear", base_model="vlm",
        models=[{"model": "vlm"}, {"model": "llm"}],
    )  # fmt: skip
    base, expert = arrays(vlm / "vlm"), arrays(vlm / "llm")
    assert sorted(made) == sorted(base)
    for name, value in made.items():
        if "visual" in name:
            np.testing.assert_array_equal(value, base[name])
        else:
            other = expert[name.replace("language_model.", "")]
            np.testing.assert_allclose(value, (base[name] + other) / 2, rtol=1e-6)
    config = json.loads((vlm / "out" / "config.json").read_text())
    assert config["text_config"]["hidden_size"] == 4
    assert config["model_type"] == "qwen2_5_vl"


def test_towers_that_all_models_have_are_merged_by_their_own_depth(vlm: Path) -> None:
    made = merged(
        vlm / "out", merge_method="task_arithmetic", base_model="vlm",
        models=[{"model": "vlm2", "parameters": {"weight": [0.0, 1.0]}}],
    )  # fmt: skip
    base, other = arrays(vlm / "vlm"), arrays(vlm / "vlm2")
    first, last = (f"model.visual.blocks.{i}.attn.qkv.weight" for i in (0, 1))
    np.testing.assert_array_equal(made[first], base[first])
    np.testing.assert_allclose(made[last], other[last], rtol=1e-6)


def test_modules_merge_what_they_name_and_keep_the_rest(vlm: Path) -> None:
    made = merged(
        vlm / "out", merge_method="linear", base_model="vlm",
        modules={"vision_tower": {"models": [{"model": "vlm"}, {"model": "vlm2"}]}},
    )  # fmt: skip
    base, other = arrays(vlm / "vlm"), arrays(vlm / "vlm2")
    for name, value in made.items():
        moved = "visual.blocks" in name
        expected = (base[name] + other[name]) / 2 if moved else base[name]
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_moe_experts_are_merged_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        tensors = language_model("model.", 50 * seed)
        for expert in range(3):
            key = f"model.layers.1.mlp.experts.{expert}.down_proj.weight"
            tensors[key] = random((4, 8), 50 * seed + 20 + expert)
        folder(tmp_path / name, tensors)
    own = [{"filter": "experts.2.", "value": 3}, {"value": 1}]
    made = merged(
        tmp_path / "out", merge_method="linear",
        models=[
            {"model": "a", "parameters": {"weight": own}},
            {"model": "b", "parameters": {"weight": 1}},
        ],
    )  # fmt: skip
    a, b = arrays(tmp_path / "a"), arrays(tmp_path / "b")
    for name, value in made.items():
        share = 0.75 if "experts.2." in name else 0.5
        np.testing.assert_allclose(value, share * a[name] + (1 - share) * b[name], rtol=1e-5)


def test_slice_with_a_base_of_its_own(models: Path) -> None:
    shutil.copytree("math", "other")
    made = merged(
        models / "out", merge_method="task_arithmetic", base_model="base",
        slices=[
            {"sources": [{"model": "math", "layer_range": [0, 2], "parameters": {"weight": 2}}]},
            {"base_model": "other",
             "sources": [{"model": "code", "layer_range": [2, 3], "parameters": {"weight": 2}}]},
        ],
    )  # fmt: skip
    base, math, code = (arrays(models / one) for one in ("base", "math", "code"))
    first = "model.layers.0.mlp.up_proj.weight"
    last = "model.layers.2.mlp.up_proj.weight"
    np.testing.assert_allclose(made[first], 2 * math[first] - base[first], atol=1e-6)
    np.testing.assert_allclose(made[last], 2 * code[last] - math[last], atol=1e-6)


def adapter(path: Path, name: str, rows: int, columns: int, **settings: Any) -> Path:
    """A LoRA adapter of rank 2 over one linear layer, as PEFT writes it."""
    from safetensors.numpy import save_file

    path.mkdir()
    save_file(
        {
            f"base_model.model.{name}.lora_A.weight": random((2, columns), 1),
            f"base_model.model.{name}.lora_B.weight": random((rows, 2), 2),
        },
        path / "adapter_model.safetensors",
    )
    facts = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(facts | settings))
    return path


def test_adapter_is_applied_on_the_fly(models: Path) -> None:
    name = "model.layers.1.mlp.up_proj"
    rows, columns = Checkpoint.open("base").spec(f"{name}.weight").shape
    adapter(models / "lora", name, rows, columns)
    made = merged(
        models / "out", merge_method="task_arithmetic", base_model="base",
        models=[{"model": "base+lora", "parameters": {"weight": 1.0}}],
    )  # fmt: skip
    base = arrays(models / "base")
    update = 2 * random((rows, 2), 2) @ random((2, columns), 1)
    for key, value in made.items():
        expected = base[key] + (update if key == f"{name}.weight" else 0)
        np.testing.assert_allclose(value, expected, atol=1e-5)


def test_adapter_stands_in_the_record_as_paths(models: Path) -> None:
    from smelt.verbs.merge import execute

    name = "model.layers.1.mlp.up_proj"
    adapter(models / "lora", name, *Checkpoint.open("base").spec(f"{name}.weight").shape)
    recipe = {"merge_method": "linear", "models": [{"model": "math"}, {"model": "base+lora"}]}
    execute(recipe, models / "out", where="r", smoke=False)
    record = json.loads((models / "out" / "run.json").read_text())
    assert record["recipe"]["models"][1]["model"] == {
        "model": {"path": "base"},
        "lora": {"path": "lora"},
    }
    assert set(record["inputs"]) == {"expert-1", "expert-2", "expert-2-lora"}
    execute(record["recipe"], models / "again", where="r", smoke=False)
    assert (models / "again" / SINGLE).read_bytes() == (models / "out" / SINGLE).read_bytes()


def test_nan_is_refused_or_counted(models: Path) -> None:
    tensors = arrays(models / "math")
    broken = next(iter(tensors))
    tensors[broken].flat[3] = np.nan
    (models / "math" / SINGLE).unlink()
    write_tensors(models / "math", tensors)
    keys: dict[str, Any] = {
        "merge_method": "linear",
        "models": [{"model": "math"}, {"model": "code"}],
    }
    with pytest.raises(UserError, match=r"holds NaN or infinity.*nonfinite: count"):
        merge_to_folder(planned(**keys), models / "out")
    made = planned(**keys, nonfinite="count")
    assert merge_to_folder(made, models / "out2") == {"math": 1}
    assert np.isnan(arrays(models / "out2")[broken]).sum() == 1


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bytes_for_any_threads_and_shards(models: Path, threads: int) -> None:
    keys: dict[str, Any] = {
        "merge_method": "dare_ties", "base_model": "base", "parameters": {"density": 0.5},
        "models": [{"model": "math"}, {"model": "code"}],
    }  # fmt: skip
    merge_to_folder(planned(**keys), models / "one", threads=1, seed=3)
    small = plan(parse_recipe(keys, "r"), "r", max_shard_bytes=20_000)
    merge_to_folder(small, models / "many", threads=threads, seed=3)
    keys["models"] = keys["models"][::-1]
    merge_to_folder(planned(**keys), models / "turned", threads=threads, seed=3)
    one, many, turned = (arrays(models / name) for name in ("one", "many", "turned"))
    for name, value in one.items():
        np.testing.assert_array_equal(value, many[name])
        np.testing.assert_allclose(value, turned[name], atol=1e-7)
    assert len(list((models / "many").glob("*.safetensors"))) > 3


def dare(out: Path, expert: str) -> Tensors:
    return merged(
        out, merge_method="dare_linear", base_model="base", parameters={"density": 0.5},
        models=[{"model": expert}],
    )  # fmt: skip


def test_masks_do_not_depend_on_how_an_expert_is_cut_into_files(models: Path) -> None:
    first = dare(models / "one", "math")
    shutil.copytree("math", "cut")
    (models / "cut" / SINGLE).unlink()
    write_tensors(models / "cut", arrays(models / "math"), max_shard_bytes=10_000)
    assert not (models / "cut" / SINGLE).exists()
    for name, value in dare(models / "two", "cut").items():
        np.testing.assert_array_equal(value, first[name])


def test_masks_depend_on_what_an_expert_holds_and_under_which_names(models: Path) -> None:
    first = Model.open("math").identity()
    tensors = arrays(models / "math")
    up, gate = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("up", "gate"))
    changes = [{up: tensors[gate], gate: tensors[up]}, {up: tensors[up].astype(np.float64)},
               {up: tensors[up].reshape(-1)}]  # fmt: skip
    found = {first}
    for change in changes:
        (models / "math" / SINGLE).unlink()
        write_tensors(models / "math", tensors | change)
        found.add(Model.open("math").identity())
    assert len(found) == 1 + len(changes)


def test_masks_of_an_adapter_depend_on_its_two_files_alone(models: Path) -> None:
    name = "model.layers.1.mlp.up_proj"
    path = adapter(models / "lora", name, *Checkpoint.open("base").spec(f"{name}.weight").shape)
    first = Model.open("base+lora").identity()
    (path / "README.md").write_text("Trained on Tuesday.")
    (path / "optimizer.bin").write_bytes(b"x")
    assert Model.open("base+lora").identity() == first
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    assert Model.open("base+lora").identity() != first


def test_large_files_are_hashed_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMELT_CACHE", str(models / "cache"))
    monkeypatch.setattr("smelt.core.digest._NOTED_BYTES", 100)
    monkeypatch.setattr("smelt.core.digest._SETTLED_SECONDS", -1.0)
    first = Model.open("math").identity()
    (note,) = (models / "cache" / "smelt" / "sha256").iterdir()
    with monkeypatch.context() as patched:
        patched.delattr("smelt.checkpoint.statistics.hashlib")  # nothing is hashed again
        assert Model.open("math").identity() == first
    for damage in ("", "{", "[]", '{"model.norm.weight": "0"}'):
        note.write_text(damage)
        assert Model.open("math").identity() == first
    tensors = arrays(models / "math")
    tensors["model.norm.weight"] += 1
    (models / "math" / SINGLE).unlink()
    write_tensors(models / "math", tensors)
    assert Model.open("math").identity() != first
