"""A candidate merged in memory is, bit for bit, what `smelt merge` makes of its recipe."""

import itertools
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from smelt.core import config
from smelt.merge.apply import InMemory, merge_to_folder
from smelt.merge.plan import plan
from smelt.merge.recipe import parse_recipe
from smelt.search.genes import as_words, find_genes, without_marks
from smelt.search.space import Space, at_values, carry, space_of
from tests.merge.conftest import finetune, load
from tests.pico import pico_llama


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("models")
    base = pico_llama(home / "base", layers=5, hidden=16)
    finetune(base, home / "math", 1)
    finetune(base, home / "code", 2)
    return home


@pytest.fixture
def home(originals: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(originals)
    return originals


def _recipe(method: str, parameters: dict[str, Any], *own: Any, one: bool = False) -> Any:
    names = ["math"] if one else ["math", "code"]
    models: list[dict[str, Any]] = [{"model": name} for name in names]
    for entry, settings in zip(models, own, strict=False):
        entry["parameters"] = settings
    return {
        "merge_method": method, "base_model": "base", "models": models, "parameters": parameters,
    }  # fmt: skip


def _space(data: Any, **way: Any) -> tuple[Space, InMemory]:
    parse_recipe(as_words(data), "r")
    genes = find_genes(data, "r")
    plain = without_marks(data, genes)
    memory = InMemory(parse_recipe(plain, "r"), "r")
    names = [item.entry.name for item in memory.plan.tensors if not item.copied]
    return space_of(plain, genes, names, where="r", **{"layer_groups": 1, **way}), memory


def _candidate(space: Space, memory: InMemory, genome: list[float]) -> dict[str, torch.Tensor]:
    plain = {name: memory.values(name) for name in memory.names}
    return memory.merge(lambda name: space.parameters(genome, name, plain[name], memory.experts))


def _merged(recipe: dict[str, Any], out: Path) -> dict[str, torch.Tensor]:
    """By the YAML that a search writes, read as `smelt merge` reads it."""
    text = out.with_suffix(".yaml")
    text.write_text(yaml.safe_dump(recipe, sort_keys=True))
    shutil.rmtree(out, ignore_errors=True)
    found = plan(parse_recipe(config.read_yaml(text), "r"), "r")
    assert not [one for one in found.warnings if "no effect" in one]
    merge_to_folder(found, out)
    return load(out)


CASES: list[tuple[Any, dict[str, Any]]] = [
    (_recipe("ties", {"weight": "search", "density": "search", "normalize": "search",
                      "rule": "search", "lambda": {"search": [0.5, 3]}}),
     {"layer_groups": 2, "components": True}),
    (_recipe("ties", {"rescale": "search"}, {"weight": {"search": [0, 1]}}, {"density": "search"}),
     {"layer_groups": "all", "components": True, "smooth": True}),
    (_recipe("task_arithmetic", {"weight": "search"}), {"layer_groups": 3, "smooth": True}),
    (_recipe("task_arithmetic", {"weight": {"search": [1e-7, 2e-6]}}), {"components": True}),
    (_recipe("dare_linear", {"weight": "search", "density": "search", "rule": "search"}),
     {"layer_groups": 2, "components": True, "smooth": True}),
    (_recipe("linear", {"weight": "search", "normalize": "search"}), {"layer_groups": "all"}),
    (_recipe("slerp", {"t": {"search": [-1, 2]}}, one=True), {"layer_groups": 2, "smooth": True}),
    (_recipe("nearswap", {"t": "search"}, one=True), {"layer_groups": 4, "smooth": True}),
    (_recipe("wudi", {"steps": {"search": [1, 6]}, "start": "search"}),
     {"layer_groups": 2, "smooth": True}),
    (_recipe("sce", {"select_topk": "search", "rule": "search"}),
     {"layer_groups": "all", "smooth": True}),
    (_recipe("nuslerp", {"weight": "search", "nuslerp_flatten": "search"}), {"components": True}),
    (_recipe("passthrough", {"scale": "search"}, one=True), {"layer_groups": "all"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "way"), CASES, ids=[f"{data['merge_method']}-{way}" for data, way in CASES]
)
def test_memory_and_recipe_give_the_same_bits(
    home: Path, tmp_path: Path, data: Any, way: dict[str, Any]
) -> None:
    space, memory = _space(data, **way)
    draw = random.Random(5)
    genome = [draw.random() for _ in range(space.size)]
    candidate = _candidate(space, memory, genome)
    written = _merged(space.recipe(genome), tmp_path / "out")
    assert sorted(candidate) == sorted(written)
    for name, tensor in candidate.items():
        assert tensor.dtype == written[name].dtype
        assert torch.equal(tensor, written[name]), name
    other = _candidate(space, memory, [1 - one for one in genome])
    assert any(not torch.equal(tensor, other[name]) for name, tensor in candidate.items())


def test_a_method_without_default_starts_mid_span(home: Path) -> None:
    space, memory = _space(_recipe("nearswap", {"t": "search"}, one=True), layer_groups=2)
    values = {name: memory.values(name) for name in memory.names}
    assert at_values(space, values, memory.experts, "r") == pytest.approx([0.5] * 3)


def test_each_stage_starts_where_the_one_before_ended(home: Path) -> None:
    data = _recipe("ties", {"weight": "search", "density": "search", "rule": "search"})
    stages = [{"layer_groups": 1}, {"layer_groups": 2}, {"layer_groups": "all"}]
    stages.append({"layer_groups": "all", "components": True})
    spaces = [_space(data, **stage) for stage in stages]
    genome = [0.1, 0.7, 0.4, 0.8, 0.9]
    first = _candidate(*spaces[0], genome)
    for (coarse, _), (fine, memory) in itertools.pairwise(spaces):
        genome = carry(genome, coarse, fine)
        merged = _candidate(fine, memory, genome)
        assert all(torch.equal(merged[name], tensor) for name, tensor in first.items())
        genome = [0.9 * one for one in genome]  # the next stage starts elsewhere than the first did
        first = _candidate(fine, memory, genome)


def test_a_recipe_is_the_start_of_a_search_at_any_granularity(home: Path) -> None:
    data = _recipe("task_arithmetic", {"weight": "search", "normalize": "search"})
    fine, memory = _space(data, layer_groups="all", components=True, smooth=True)
    draw = random.Random(2)
    best = fine.recipe([draw.random() for _ in range(fine.size)])
    items = [item for item in plan(parse_recipe(best, "r"), "r").tensors if not item.copied]
    values = {item.entry.name: item.values for item in items}
    again = at_values(fine, values, memory.experts, "r")
    for name in values:
        plain = memory.values(name)
        found = fine.parameters(again, name, plain, memory.experts)
        assert found["weight"] == pytest.approx(values[name]["weight"])
        assert found["normalize"] == values[name]["normalize"]
    coarse, _ = _space(data)
    weight = coarse.genes[0].value(at_values(coarse, values, memory.experts, "r")[0])
    mean = sum(one["weight"][0] for one in values.values()) / len(values)
    assert weight == pytest.approx(mean)
