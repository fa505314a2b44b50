"""What `--config-only` says of a pair is what a merge of the models would say."""

import json
from pathlib import Path
from typing import Any

import pytest

from smelt.core.errors import UserError
from smelt.merge.plan import plan
from smelt.merge.recipe import parse_recipe
from smelt.search.by_config import describe_by_config
from tests.models.test_by_config import GPT2, SMALL
from tests.pico import pico_llama


def recipe(base: Path, expert: Path, **more: Any) -> dict[str, Any]:
    fitness = {"data": "fitness.jsonl", "domains": {"sum": 1.0}}
    return {
        "merge_method": "task_arithmetic", "base_model": str(base),
        "models": [{"model": str(expert), "parameters": {"weight": "search"}}],
        "search": {"fitness": fitness, "evaluations": 9, "layer_groups": [1, "all"]}, **more,
    }  # fmt: skip


def written(folder: Path, kind: str, **config: Any) -> Path:
    """A folder with a configuration and nothing else."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **config}))
    return folder


@pytest.mark.parametrize("tied", [(True, False), (False, True)])
def test_a_tied_and_an_untied_model_merge(tmp_path: Path, tied: tuple[bool, bool]) -> None:
    base = pico_llama(tmp_path / "base", tied=tied[0])
    expert = pico_llama(tmp_path / "expert", tied=tied[1], seed=1)
    data = recipe(base, expert)
    merged = {key: value for key, value in data.items() if key != "search"}
    merged["models"] = [{"model": str(expert), "parameters": {"weight": 1.0}}]
    assert "lm_head.weight" in {
        item.entry.name for item in plan(parse_recipe(merged, "r"), "r").tensors
    }
    assert any("genes" in line for line in describe_by_config(data, "r"))


def test_vocabularies_of_other_sizes_are_moved_by_token(tmp_path: Path) -> None:
    """GPT-2 calls its embedding wte; its positions, wpe, are no vocabulary."""
    base = written(tmp_path / "base", "gpt2", **GPT2)
    wide = written(tmp_path / "wide", "gpt2", **GPT2 | {"vocab_size": 33})
    long = written(tmp_path / "long", "gpt2", **GPT2 | {"n_positions": 32})
    moved = recipe(base, wide, tokenizer_source="base")
    lines = describe_by_config(moved, "r")
    assert any(line.startswith("embedding rows: 30 in ") for line in lines)
    with pytest.raises(UserError, match="embeddings of other sizes"):
        describe_by_config(recipe(base, wide), "r")
    with pytest.raises(UserError, match=r"transformer\.wpe\.weight.*models of one shape"):
        describe_by_config(recipe(base, long, tokenizer_source="base"), "r")


def test_a_bad_configuration_is_refused_with_its_recipe(tmp_path: Path) -> None:
    base = written(tmp_path / "base", "llama", **SMALL)
    bad = written(tmp_path / "bad", "llama", **SMALL | {"num_hidden_layers": "x"})
    with pytest.raises(UserError, match=r"r: .*bad: cannot be read as a configuration"):
        describe_by_config(recipe(base, bad), "r")
