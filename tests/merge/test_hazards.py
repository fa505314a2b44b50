"""Hazards found in mergekit 0.1.5 that no other test of ours guards; docs list all ten."""

import json
import os
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smelt.checkpoint.reader import SINGLE, Checkpoint
from smelt.checkpoint.writer import write_tensors
from smelt.merge.apply import merge_to_folder, num_threads
from smelt.merge.blocks import BLOCK_ELEMENTS
from smelt.merge.plan import MergePlan, plan
from smelt.merge.recipe import parse_recipe
from tests.merge.conftest import finetune, load, rewrite

BOTH = [{"model": "math"}, {"model": "code"}]


def _plan(max_shard_bytes: int = 10**9, /, **keys: Any) -> MergePlan:
    return plan(parse_recipe(keys, "r"), "r", max_shard_bytes=max_shard_bytes)


def _merged(out: Path, **keys: Any) -> dict[str, torch.Tensor]:
    merge_to_folder(_plan(**keys), out)
    return load(out)


def test_config_comes_from_the_first_model_as_written(models: Path) -> None:
    """Hazard 2: mergekit takes the first of a set, which changes with PYTHONHASHSEED."""
    for order in (BOTH, BOTH[::-1]):
        made = _plan(merge_method="linear", models=order)
        assert made.donor == order[0]["model"]


def test_shards_are_cut_by_bytes(models: Path) -> None:
    """Hazard 5: mergekit says parameters and cuts by bytes."""
    keys = {"base_model": "base", "models": BOTH, "out_dtype": "bfloat16"}
    largest = 30_000
    merge_to_folder(_plan(largest, **keys), models / "out")
    index = json.loads((models / "out/model.safetensors.index.json").read_text())
    sizes: dict[str, int] = {}
    for name, file in index["weight_map"].items():
        spec = Checkpoint.open(models / "out").spec(name)
        sizes[file] = sizes.get(file, 0) + spec.num_bytes
    assert len(sizes) > 1
    assert all(size <= largest for size in sizes.values())
    assert sum(sizes.values()) == 2 * sum(one.numel() for one in load(models / "out").values())


@pytest.mark.parametrize("asked", ["1", "3"])
def test_the_number_of_threads_is_what_was_asked_for(
    models: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """Hazard 5: mergekit drops --write-threads without a word."""
    from smelt.merge import threads

    started: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, max_workers: int, prefix: str) -> None:
            started.append(max_workers)
            super().__init__(max_workers, prefix)

    monkeypatch.setattr(threads, "ThreadPoolExecutor", Pool)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert num_threads() == int(asked)
    merge_to_folder(_plan(base_model="base", models=BOTH), models / "out")
    assert started == [int(asked)]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert num_threads() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "section", [{}, {"tokenizer_source": "base"}, {"tokenizer_source": "union"}]
)
def test_generation_config_stays_with_and_without_a_tokenizer_section(
    models: Path, section: dict[str, str]
) -> None:
    """Hazard 6: mergekit loses it when a tokenizer is built."""
    kept = {"do_sample": True, "temperature": 0.7, "eos_token_id": 1}
    (models / "base/generation_config.json").write_text(json.dumps(kept))
    merge_to_folder(_plan(base_model="base", models=BOTH, **section), models / "out")
    assert json.loads((models / "out/generation_config.json").read_text()) == kept


def test_slices_with_different_numbers_of_sources(models: Path) -> None:
    """Hazard 8: mergekit pairs the last slice's models with the first slice's weights."""

    def part(first: int, last: int, **weights: float) -> dict[str, Any]:
        return {
            "sources": [
                {"model": name, "layer_range": [first, last], "parameters": {"weight": weight}}
                for name, weight in weights.items()
            ]
        }

    finetune(models / "base", models / "chat", 3)
    made = _merged(
        models / "out",
        merge_method="linear",
        parameters={"normalize": False},
        slices=[part(0, 2, math=0.5, code=0.25), part(2, 3, math=1.0, code=0.5, chat=0.125)],
    )
    math, code, chat = (load(models / name) for name in ("math", "code", "chat"))
    for name in ("model.layers.2.mlp.up_proj.weight", "model.norm.weight"):
        expected = math[name].double() + 0.5 * code[name].double() + 0.125 * chat[name].double()
        torch.testing.assert_close(made[name], expected.float(), rtol=1e-6, atol=1e-7)
    for name in ("model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"):
        expected = 0.5 * math[name].double() + 0.25 * code[name].double()
        torch.testing.assert_close(made[name], expected.float(), rtol=1e-6, atol=1e-7)


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path, monkeypatch: Any) -> None:
    """Hazard 9: mergekit holds every input's tensor whole, also when inputs are the same."""
    monkeypatch.chdir(tmp_path)
    large = 40 * BLOCK_ELEMENTS
    names = ("base", "one", "two", "three")
    for name in names:
        Path(name).mkdir()
        tensor = np.ones((large // 512, 512), dtype=np.float16)
        write_tensors(Path(name), {"model.layers.0.mlp.up_proj.weight": tensor})
        Path(name, "config.json").write_text('{"model_type": "llama"}')
    made = _plan(base_model="base", models=[{"model": name} for name in names[1:]])
    merge_to_folder(made, tmp_path / "warm", threads=1)
    tracemalloc.start()
    merge_to_folder(made, tmp_path / "out", threads=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One buffer of a block for base and experts in float32, what is made of it, and room.
    assert peak < 3 * 5 * BLOCK_ELEMENTS * 4
    assert peak < large  # half of what one of the four tensors takes in its file


def test_a_folder_that_changed_is_read_anew(models: Path) -> None:
    """Hazard 10: mergekit's loaders stay open for the life of the process."""
    keys = {"merge_method": "linear", "models": [{"model": "math"}]}
    before = _merged(models / "one", **keys)
    assert torch.equal(before["model.norm.weight"], load(models / "math")["model.norm.weight"])
    rewrite(models / "math", load(models / "code"))
    after = _merged(models / "two", **keys)
    assert torch.equal(after["model.norm.weight"], load(models / "code")["model.norm.weight"])
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    # Also where a result takes the place of an input, and when the old one was only written over.
    shutil.rmtree(models / "math")
    shutil.copytree(models / "one", models / "math")
    assert torch.equal(
        _merged(models / "three", **keys)["model.norm.weight"], before["model.norm.weight"]
    )
    data = bytearray((models / "math" / SINGLE).read_bytes())
    data[-4:] = np.float32(0.5).tobytes()
    (models / "math" / SINGLE).write_bytes(data)
    changed = _merged(models / "four", **keys)
    assert sum(int((changed[name] != before[name]).sum()) for name in before) == 1
