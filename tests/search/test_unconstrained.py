"""The paper's study: its recipes by configuration alone, and run with small models of our own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from smelt.checkpoint.reader import Checkpoint
from smelt.core import registry
from smelt.core.errors import UserError
from smelt.data.document import write_jsonl
from smelt.evals.by_config import describe_by_config as describe_eval
from smelt.models.by_config import RECORDED, answering_hours, num_cards
from smelt.models.load import load_model, save_model
from smelt.search.by_config import describe_by_config
from smelt.verbs.search import execute
from tests.merge.conftest import finetune
from tests.pico import pico_llama
from tests.train.rows import SUMS, pair

FAMILIES = [name for name in registry.names("recipe")
            if name.startswith("unconstrained/") and not name.endswith("eval")]  # fmt: skip


def recipe(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(registry.path_of("recipe", name).read_text())
    return found


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded is what is tested, also on a machine with a hub."""
    monkeypatch.setattr("smelt.models.by_config._hub_config", lambda name: None)


def test_the_nine_models_and_their_families() -> None:
    lines = describe_eval(recipe("unconstrained/eval"), "e")
    families = [line for line in lines if line.startswith("family of")]
    assert [line.split(": ")[0].removeprefix("family of ") for line in families] == [
        "codellama_7b, metamath_7b", "codellama_70b, metamath_70b",
        "deepseek_coder_7b, deepseek_math_7b", "wizardmath_7b, openmath_mistral_7b",
        "qwen2_5_math_7b",
    ]  # fmt: skip
    assert families[-1].endswith("to be fused only")
    assert sum(line.endswith("recorded with smelt, as no hub is reachable") for line in lines) == 9
    # 6.74e9 is what Llama-2-7B's paper and files say; the sum is 2 x 7B, 2 x 70B and five of 7B.
    assert "codellama_7b: 6.7e9 parameters" in lines[0]
    assert any("GPU-hours for 9 models" in line for line in lines)


def test_the_traps_of_the_llama_pair_are_told() -> None:
    told = "\n".join(describe_by_config(recipe("unconstrained/llama2_7b"), "r"))
    assert "rope_theta differs: 1000000.0 in codellama/CodeLlama-7b-Instruct-hf, 10000.0" in told
    assert "32016 in codellama/CodeLlama-7b-Instruct-hf, 32001 in meta-math" in told
    assert "4 parameters: 4 then 20 then 68 genes" in told
    # base 6.738e9, +16 rows and +1 row of 2 x 4096, times 2 bytes.
    parameters = 32000 * 4096 * 2 + 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096
    total = 2 * (3 * parameters + 17 * 2 * 4096)
    assert f"disk: {total / 1e9:.0f} GB to download" in told
    assert "GPU-hours for 400 candidates x 240 items" in told  # MBPP has 90 for a search
    assert "1 GPU of 80 GB for the candidate in bfloat16" in told
    large = "\n".join(describe_by_config(recipe("unconstrained/llama2_70b"), "r"))
    assert "3 GPU of 80 GB for the candidate in bfloat16, more than the one" in large


def test_precision_decides_cards_and_hours() -> None:
    assert [num_cards(7 * 10**9, width) for width in (2, 4)] == [1, 1]
    assert [num_cards(69 * 10**9, width) for width in (2, 4)] == [3, 5]
    # No prompt: only reading the weights counts, twice as much in float32; no answer: arithmetic.
    one, other = (answering_hours(10**9, width, 64, 0, 10) for width in (4, 2))
    assert one == 2 * other == pytest.approx(10 * 4e9 / (3.35e12 * 0.6) / 3600)
    one, other = (answering_hours(10**9, width, 64, 10, 0) for width in (4, 2))
    assert one / other == pytest.approx(989 / 67)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_sound_by_configuration_and_broken_ones_are_refused(name: str) -> None:
    data = recipe(name)
    assert describe_by_config(data, "r")
    data["models"][0]["model"] = "Qwen/Qwen2.5-Math-7B-Instruct"
    with pytest.raises(UserError, match=r"model_type is qwen2.*smelt fuse"):
        describe_by_config(data, "r")
    data["models"][0]["model"] = "nobody/nothing"
    with pytest.raises(UserError, match=r"no config.json of nobody/nothing"):
        describe_by_config(data, "r")


def test_sizes_that_differ_need_a_tokenizer_source() -> None:
    data = recipe("unconstrained/llama2_7b")
    del data["tokenizer_source"]
    with pytest.raises(UserError, match=r"embeddings of other sizes: .*tokenizer_source: base"):
        describe_by_config(data, "r")


def test_layers_or_widths_that_differ_are_found(tmp_path: Path) -> None:
    known = json.loads(RECORDED.read_text())
    for key, value, message in (
        ("num_hidden_layers", 31, "is in only one of"),
        ("intermediate_size", 11000, "models of one shape"),
        ("hidden_size", 2048, "hidden_size is 2048"),
        ("model_type", "llamma", "model_type is llamma"),
    ):
        config = {**known["codellama/CodeLlama-7b-Instruct-hf"], key: value}
        (tmp_path / "config.json").write_text(json.dumps(config))
        data = recipe("unconstrained/llama2_7b")
        data["models"][0]["model"] = str(tmp_path)
        with pytest.raises(UserError, match=message):
            describe_by_config(data, "r")


def widened(base: Path, folder: Path, seed: int, tokens: list[str], **config: Any) -> None:
    """A fine-tuned copy with tokens of its own at the end of the vocabulary."""
    finetune(base, folder, seed)
    text = json.loads((folder / "tokenizer.json").read_text())
    size = len(text["model"]["vocab"])
    text["added_tokens"] += [
        {"id": size + n, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": False} for n, token in enumerate(tokens)
    ]  # fmt: skip
    model = load_model(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.resize_token_embeddings(size + len(tokens), mean_resizing=False)
    for key, value in config.items():
        setattr(model.config, key, value)
    (folder / "tokenizer.json").write_text(json.dumps(text))
    save_model(model, folder, folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_recipe_runs_with_small_models(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pico_llama(tmp_path / "base", layers=4, tied=False)
    theta = {"rope_type": "default", "rope_theta": 1e6}
    widened(tmp_path / "base", tmp_path / "one", 1, [f"<c{n}>" for n in range(16)],
            rope_parameters=theta)  # fmt: skip
    widened(tmp_path / "base", tmp_path / "two", 2, ["[PAD]"])
    rows = [pair(*one, domain="sum") for one in SUMS[:6]]
    write_jsonl(tmp_path / "fitness.jsonl", rows)
    data = recipe(name)
    data["base_model"] = "base"
    for entry, folder in zip(data["models"], ("one", "two"), strict=True):
        entry["model"] = folder
    data["dtype"] = "float32"
    data["search"] |= {
        "fitness": {"data": "fitness.jsonl", "domains": {"sum": 1.0}, "measure": "likelihood"},
        "evaluations": [6, 6, 6],
        "layer_groups": [1, 2, 4],
    }
    told = "\n".join(describe_by_config(data, "r"))
    assert "rope_theta" in told
    execute(data, tmp_path / "out", where="r")
    merged, base = (Checkpoint.open(tmp_path / one) for one in ("out", "base"))
    rows_of = "model.embed_tokens.weight"
    assert merged.spec(rows_of).shape == base.spec(rows_of).shape
    assert merged.config["vocab_size"] == base.config["vocab_size"]
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["fitness"]["best"] >= record["fitness"]["start"]
