"""Merging for real: on disk and in memory, tied heads, damaged numbers, regression hazards."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from smelt.checkpoint.reader import Checkpoint
from smelt.checkpoint.writer import Writer
from smelt.core import digest
from smelt.core.errors import UserError
from smelt.merge import record
from smelt.merge.apply import InMemory, merge_to_folder
from smelt.merge.plan import plan
from smelt.merge.recipe import parse_recipe
from tests.merge.conftest import load, rewrite


def _merge(out: Path, *, max_shard_bytes: int = 10**9, **recipe: Any) -> dict[str, torch.Tensor]:
    parsed = parse_recipe({"base_model": "base"} | recipe, "r.yaml")
    merge_to_folder(plan(parsed, "r.yaml", max_shard_bytes=max_shard_bytes), out)
    return load(out)


BOTH = [{"model": "math"}, {"model": "code"}]
METHODS: list[dict[str, Any]] = [
    {"merge_method": "linear", "models": BOTH, "parameters": {"weight": [0.2, 1.0]}},
    {"merge_method": "task_arithmetic", "models": BOTH, "dtype": "bfloat16"},
    {"merge_method": "ties", "models": BOTH, "parameters": {"density": 0.4, "lambda": 0.7}},
    {"merge_method": "sce", "models": BOTH, "parameters": {"density": 0.4}},
    {"merge_method": "slerp", "models": BOTH[:1], "parameters": {"t": [0.1, 0.9]}},
    {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": "math", "layer_range": [0, 2]}]}] * 2,
    },
]


@pytest.mark.parametrize("recipe", METHODS, ids=lambda recipe: str(recipe["merge_method"]))
def test_memory_and_folder_have_the_same_bytes(models: Path, recipe: dict[str, Any]) -> None:
    on_disk = _merge(models / "out", **recipe, max_shard_bytes=20_000)
    memory = InMemory(parse_recipe({"base_model": "base"} | recipe, "r.yaml"), "r.yaml")
    in_memory = memory.merge()
    assert list(in_memory) == memory.names == sorted(on_disk)
    for name, tensor in in_memory.items():
        assert tensor.dtype == on_disk[name].dtype
        assert torch.equal(tensor, on_disk[name])
    again = memory.merge(memory.values)
    assert all(torch.equal(again[name], in_memory[name]) for name in memory.names)


def test_result_equals_the_formula_rounded_once(models: Path) -> None:
    base, math, code = (load(models / name) for name in ("base", "math", "code"))
    entries = [
        {"model": "math", "parameters": {"weight": 0.3}},
        {"model": "code", "parameters": {"weight": 0.6}},
    ]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name_of_it = str(dtype).removeprefix("torch.")
        out = models / name_of_it
        merged = _merge(out, models=entries, parameters={"lambda": 0.8}, dtype=name_of_it)
        assert json.loads((out / "config.json").read_text())["dtype"] == name_of_it
        for name, tensor in merged.items():
            b, m, c = base[name].double(), math[name].double(), code[name].double()
            exact = b + 0.8 * (0.3 * (m - b) + 0.6 * (c - b))
            assert torch.equal(tensor, exact.float().to(dtype))


def test_in_memory_parameters(models: Path) -> None:
    recipe = parse_recipe({"base_model": "base", "merge_method": "ties", "models": BOTH}, "r")
    memory = InMemory(recipe, "r")
    assert memory.experts == ["math", "code"]
    assert memory.num_layers == 3
    asked = []

    def parameters(name: str) -> dict[str, Any]:
        asked.append(name)
        return {"weight": [1.0, 0.0], "lambda": 1.0}

    merged = memory.merge(parameters)
    assert asked == memory.names
    expert = load(models / "math")
    for name in memory.names:
        torch.testing.assert_close(merged[name], expert[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("shard_bytes", [1, 10_000, 10**9])
def test_any_shard_size_gives_the_same_tensors(models: Path, shard_bytes: int) -> None:
    whole = _merge(models / "whole", models=BOTH)
    cut = _merge(models / "cut", models=BOTH, max_shard_bytes=shard_bytes)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_stack_runs_in_transformers(models: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    slices = [
        {"sources": [{"model": "math", "layer_range": [0, 2]}]},
        {"sources": [{"model": "code", "layer_range": [1, 3]}]},
    ]
    merged = _merge(models / "out", merge_method="passthrough", slices=slices, base_model="math")
    code = load(models / "code")
    up = "model.layers.{}.mlp.up_proj.weight".format
    assert torch.equal(merged[up(2)], code[up(1)])
    model = AutoModelForCausalLM.from_pretrained(models / "out")
    assert model.config.num_hidden_layers == 4
    tokenizer = AutoTokenizer.from_pretrained(models / "out")
    logits = model(tokenizer("max[1]*2", return_tensors="pt").input_ids).logits
    assert torch.isfinite(logits).all()


def test_chat_template_and_side_files(models: Path) -> None:
    from transformers import AutoTokenizer

    (models / "base/generation_config.json").write_text('{"max_new_tokens": 7}')
    _merge(models / "out", models=BOTH, chat_template="T{{ messages[0].content }}T")
    generation = json.loads((models / "out/generation_config.json").read_text())
    assert generation == {"max_new_tokens": 7}
    tokenizer = AutoTokenizer.from_pretrained(models / "out")
    messages = [{"role": "user", "content": "x"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "TxT"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_by_name(models: Path, value: float) -> None:
    tensors = load(models / "code")
    tensors["model.norm.weight"][3] = value
    rewrite(models / "code", tensors)
    message = r"code/model\.safetensors: tensor 'model\.norm\.weight' holds NaN or infinity"
    with pytest.raises(UserError, match=message):
        _merge(models / "out", models=BOTH)
    with pytest.raises(UserError, match=message):
        InMemory(parse_recipe({"base_model": "base", "models": BOTH}, "r"), "r")


def test_overflow_of_the_output_type(models: Path) -> None:
    tensors = load(models / "code")
    tensors["model.norm.weight"] = torch.full((32,), 1e5)
    rewrite(models / "code", tensors)
    with pytest.raises(UserError, match=r"model\.norm\.weight: the merge overflows float16"):
        _merge(models / "out", models=BOTH[1:], out_dtype="float16")


def test_integers_must_agree(models: Path) -> None:
    for name in ("base", "math", "code"):
        rewrite(models / name, load(models / name) | {"steps": torch.tensor([1, 2])})
    assert _merge(models / "out", models=BOTH, dtype="bfloat16")["steps"].tolist() == [1, 2]
    rewrite(models / "code", load(models / "code") | {"steps": torch.tensor([1, 3])})
    with pytest.raises(UserError, match="code: tensor 'steps' differs and is no float"):
        _merge(models / "other", models=BOTH)


def _give_head(folder: Path, *, declare: bool) -> torch.Tensor:
    tensors = load(folder)
    head = tensors["model.embed_tokens.weight"] + 0.5
    rewrite(folder, tensors | {"lm_head.weight": head})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": declare}))
    return head


@pytest.mark.parametrize("declare", [False, True])
def test_tied_base_and_untied_expert(models: Path, declare: bool) -> None:
    """Hazard: config.json must not say tied when the result has a head of its own."""
    head = _give_head(models / "code", declare=declare)
    merged = _merge(models / "out", models=BOTH)
    embedding = {
        name: load(models / name)["model.embed_tokens.weight"] for name in ("base", "math")
    }
    expected = 0.5 * embedding["math"].double() + 0.5 * head.double()
    assert torch.equal(merged["lm_head.weight"], expected.float())
    config = json.loads((models / "out/config.json").read_text())
    assert config["tie_word_embeddings"] is False
    recipe = parse_recipe({"base_model": "base", "models": BOTH}, "r")
    warnings = plan(recipe, "r").warnings
    assert "tied head in base, math, own head in code: the result has a head of its own" in warnings
    assert declare == any("code says tie_word_embeddings but has a head" in w for w in warnings)


def test_head_that_repeats_the_embedding_stays_tied(models: Path) -> None:
    tensors = load(models / "code")
    rewrite(models / "code", tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]})
    assert "lm_head.weight" not in _merge(models / "out", models=BOTH)
    assert json.loads((models / "out/config.json").read_text())["tie_word_embeddings"] is True


def test_folder_with_weights_is_refused(models: Path) -> None:
    """Hazard: stale shards beside new ones."""
    _merge(models / "out", models=BOTH, max_shard_bytes=10_000)
    with pytest.raises(UserError, match="holds weights already"):
        _merge(models / "out", models=BOTH)


def test_mixed_types_keep_the_type_of_the_base(models: Path) -> None:
    """Hazard: bf16 and f16 inputs must not silently give float32."""
    for name, dtype in (("base", torch.bfloat16), ("math", torch.float16)):
        rewrite(models / name, {k: v.to(dtype) for k, v in load(models / name).items()})
    merged = _merge(models / "out", models=BOTH[:1])
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    config = json.loads((models / "out/config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == ("bfloat16", "bfloat16")
    assert Checkpoint.open(models / "out").spec("model.norm.weight").dtype == "BF16"


def test_in_memory_refuses_different_sources(models: Path) -> None:
    slices = [
        {"sources": [{"model": "math", "layer_range": [0, 2]}]},
        {"sources": [{"model": "code", "layer_range": [1, 3]}]},
    ]
    recipe = parse_recipe({"merge_method": "passthrough", "slices": slices}, "r")
    with pytest.raises(UserError, match="slices of different models"):
        InMemory(recipe, "r")


COUNTED: dict[str, Any] = {"merge_method": "linear", "models": BOTH, "nonfinite": "count"}


@pytest.fixture
def damaged(models: Path) -> Path:
    """Three NaN in each tensor of math, one infinity in each of code."""
    for name, value, count in (("math", float("nan"), 3), ("code", float("inf"), 1)):
        tensors = load(models / name)
        for tensor in tensors.values():
            tensor.view(-1)[:count] = value
        rewrite(models / name, tensors)
    return models


def _counted(out: Path, **options: Any) -> dict[str, int]:
    made = plan(parse_recipe(COUNTED, "r"), "r", max_shard_bytes=10_000)
    return merge_to_folder(made, out, **options)


def test_counts_are_the_same_for_any_threads_and_leave_no_file(damaged: Path) -> None:
    tensors = len(load(damaged / "math"))
    for threads in (1, 4):
        out = damaged / f"out{threads}"
        expected = {"code": tensors, "math": 3 * tensors}
        assert _counted(out, threads=threads) == expected
        assert not list(out.glob("*nonfinite*"))


@pytest.mark.parametrize("lost", [None, "removed", "cut"])
def test_counts_of_an_interrupted_merge(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, lost: str | None
) -> None:
    """Hazard: only what the last attempt wrote is counted."""
    whole = _counted(damaged / "whole")
    ended = []
    end = Writer.end

    def killed(writer: Writer) -> None:
        if len(ended) == 2:
            raise SystemExit(137)
        end(writer)
        ended.append(writer)

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "end", killed)
        with pytest.raises(SystemExit):
            _counted(damaged / "out")
    shards = sorted((damaged / "out").glob("*.safetensors"))
    assert len(shards) == 2
    times = [path.stat().st_mtime_ns for path in shards]
    notes = sorted((damaged / "out").glob("*nonfinite.json"))
    if lost == "removed":
        notes[0].unlink()
    elif lost == "cut":
        notes[0].write_text("{")
    assert _counted(damaged / "out", resume=True) == whole
    assert digest.files(damaged / "out") == digest.files(damaged / "whole")
    kept = [path.stat().st_mtime_ns == time for path, time in zip(shards, times, strict=True)]
    assert kept == [lost is None, True]


def test_counts_of_models_of_one_name(damaged: Path) -> None:
    from smelt.verbs.merge import execute

    for name in ("math", "code"):
        (damaged / "runs" / name).mkdir(parents=True)
        (damaged / name).rename(damaged / "runs" / name / "final")
    models = [{"model": f"runs/{name}/final"} for name in ("math", "code")]
    execute(COUNTED | {"models": models}, damaged / "out", where="r", smoke=False)
    found = json.loads((damaged / "out/run.json").read_text())["nonfinite"]
    assert set(found) == {"math/final", "code/final"}
    assert found["math/final"] == 3 * found["code/final"] > 0


def test_warnings_name_models_of_one_name_apart(models: Path) -> None:
    for name in ("math", "code"):
        (models / "runs" / name).mkdir(parents=True)
        (models / name).rename(models / "runs" / name / "final")
    config = models / "runs/code/final/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 999}))
    entries = [{"model": f"runs/{name}/final"} for name in ("math", "code")]
    made = plan(parse_recipe({"merge_method": "linear", "models": entries}, "r"), "r")
    (warning,) = (text for text in record.warnings(made) if text.startswith("vocab_size differs"))
    assert "999 in code/final" in warning
    assert " math/final" in warning
    assert "runs" not in warning


def test_every_model_has_an_input_name_of_its_own(models: Path) -> None:
    """Hazard: two bases of slices overwrite each other, and a change of one goes unseen."""
    for name in ("other1", "other2", "words"):
        shutil.copytree("base", name)
    sources = [{"model": "math", "layer_range": [0, 1]}, {"model": "code", "layer_range": [0, 1]}]
    recipe = {
        "merge_method": "task_arithmetic", "base_model": "base",
        "slices": [
            {"base_model": "other1", "sources": sources},
            {"base_model": "other2", "sources": sources},
        ],
        "tokenizer_source": "words",
    }  # fmt: skip
    made = plan(parse_recipe(recipe, "r"), "r")
    assert {label: Path(path).name for label, path in record.inputs(made).items()} == {
        "base": "base", "expert-1": "math", "expert-2": "code",
        "slice-base-1": "other1", "slice-base-2": "other2",
        "tokenizer": "words",
    }  # fmt: skip
    plain = {**recipe, "merge_method": "linear"}
    del plain["tokenizer_source"]
    labels = record.inputs(plan(parse_recipe(plain, "r"), "r"))
    assert {"slice-base-1", "slice-base-2"} <= set(labels)
