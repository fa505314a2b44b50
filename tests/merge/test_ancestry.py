"""Families and bases of models whose history is known, from samples and from all weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from smelt.merge.kinship.ancestry import Ancestry, ancestry, judge, matrices_of
from smelt.merge.kinship.likely_base import find_base
from smelt.merge.kinship.products import cosines_of, difference_products, weight_products
from smelt.merge.model import Model
from tests.merge.conftest import load, rewrite
from tests.pico import pico_llama

Tensors = dict[str, torch.Tensor]


def noise(tensors: Tensors, seed: int, size: float) -> Tensors:
    """A task vector: independent normal numbers, larger where weights are."""
    made = torch.Generator().manual_seed(seed)
    return {n: size * t.std() * torch.randn(t.shape, generator=made) for n, t in tensors.items()}


def low_rank(tensors: Tensors, seed: int, size: float) -> Tensors:
    """A LoRA-like task vector of rank 1 on the attention matrices alone."""
    made = torch.Generator().manual_seed(seed)
    result = {}
    for name, one in tensors.items():
        result[name] = torch.zeros_like(one)
        if "self_attn" in name:
            left, right = (torch.randn(k, generator=made) for k in one.shape)
            result[name] = size * one.std() * torch.outer(left, right)
    return result


def combined(*terms: tuple[float, Tensors]) -> Tensors:
    return {name: sum(weight * one[name] for weight, one in terms) for name in terms[0][1]}


class Home:
    """A folder in which models are made by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models: dict[str, Model] = {}

    def fresh(self, name: str, seed: int, **shape: int) -> Tensors:
        folder = pico_llama(self.root / name, seed=seed, **shape)
        self.models[name] = Model.open(str(folder))
        return load(folder)

    def add(self, name: str, tensors: Tensors) -> Tensors:
        folder = pico_llama(self.root / name)
        rewrite(folder, tensors)
        self.models[name] = Model.open(str(folder))
        return tensors

    def tuned(self, name: str, base: Tensors, task: Tensors) -> Tensors:
        return self.add(name, combined((1.0, base), (1.0, task)))

    def judged(self, *names: str) -> Ancestry:
        return ancestry({name: self.models[name] for name in names or self.models})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_two_bases_with_two_fine_tunes_each(home: Home) -> None:
    for base, seed in (("x", 1), ("y", 2)):
        tensors = home.fresh(base, seed)
        for place in (1, 2):
            home.tuned(f"{base}{place}", tensors, noise(tensors, 10 * seed + place, 0.05))
    found = home.judged("x1", "y2", "x", "y", "x2", "y1")
    assert [(f.models, f.base) for f in found.families] == [
        (["x1", "x", "x2"], "x"), (["y2", "y", "y1"], "y"),
    ]  # fmt: skip
    # Three models are a triangle: the right angle is at the base, which is no proof.
    assert {family.confidence for family in found.families} == {"medium"}
    assert "not certain" in found.families[0].evidence[-1]
    assert found.family_of("y1").base == "y"
    place = {name: index for index, name in enumerate(found.names)}
    assert found.cosines[place["x"]][place["x1"]] == pytest.approx(0.9988, abs=5e-4)
    assert abs(found.cosines[place["x"]][place["y"]] or 1.0) < 0.1
    assert found.notes == []


def test_three_fine_tunes_make_the_base_certain(home: Home) -> None:
    base = home.fresh("base", 1)
    for seed in (1, 2, 3):
        home.tuned(f"ft{seed}", base, noise(base, seed, 0.05))
    (family,) = home.judged("ft2", "base", "ft1", "ft3").families
    assert (family.base, family.confidence) == ("base", "high")
    assert "not certain" not in " ".join(family.evidence)


def test_without_their_base_nobody_is_the_base(home: Home) -> None:
    base = home.fresh("base", 1)
    for seed in (1, 2, 3):
        home.tuned(f"ft{seed}", base, noise(base, seed, 0.05))
    (family,) = home.judged("ft1", "ft2", "ft3").families
    assert (family.base, family.confidence) == (None, "none")
    assert "may not be among them" in family.evidence[-1]
    (pair,) = home.judged("base", "ft1").families
    assert pair.base is None
    assert "two models" in pair.evidence[-1]


def test_lora_like_deltas_on_few_tensors(home: Home) -> None:
    base = home.fresh("base", 4)
    for seed in (1, 2, 3):
        home.tuned(f"lora{seed}", base, low_rank(base, seed, 0.003))
    (family,) = home.judged().families
    assert (family.base, family.confidence) == ("base", "high")
    assert "cosine 1.0000 to 1.0000" in family.evidence[0]


def test_strangers_are_strangers_whatever_norms_and_embeddings_say(home: Home) -> None:
    one, two = home.fresh("one", 1), home.fresh("two", 2)
    norm = "model.norm.weight"
    same = torch.nn.functional.cosine_similarity(one[norm], two[norm], dim=0)
    assert same > 0.99  # what would mislead
    home.add("copied", two | {"model.embed_tokens.weight": one["model.embed_tokens.weight"]})
    found = home.judged("one", "copied")
    assert [family.models for family in found.families] == [["one"], ["copied"]]
    assert "at most 0.0" in found.families[0].evidence[0]


def test_half_related_models_are_noted(home: Home) -> None:
    one, two = home.fresh("one", 1), home.fresh("two", 2)
    home.add("mixed", combined((0.2, one), (0.98, two)))
    home.add("far", combined((0.6, one), (0.8, two)))
    found = home.judged("one", "mixed")
    assert len(found.families) == 2
    assert "one: cosine 0.2" in found.notes[0]
    (family,) = home.judged("one", "far").families
    assert "below 0.8 is far" in family.evidence[1]


def test_other_shapes_and_identical_weights(home: Home) -> None:
    base = home.fresh("base", 1)
    home.fresh("wide", 1, hidden=64)
    home.add("copy", base)
    found = home.judged()
    assert [family.models for family in found.families] == [["base", "copy"], ["wide"]]
    assert "copy has the weights of base" in found.families[0].evidence
    assert found.families[1].evidence == ["no other model has its shapes"]
    assert found.cosines[0][1] is None


def test_merges_are_named_with_their_weights_and_not_taken_for_the_base(home: Home) -> None:
    base = home.fresh("base", 1)
    tuned = [home.tuned(f"ft{seed}", base, noise(base, seed, 0.05)) for seed in (1, 2, 3)]
    home.add("average", combined(*[(1 / 3, one) for one in tuned]))
    home.add("task", combined((-0.5, base), *[(0.5, one) for one in tuned]))
    (family,) = home.judged("base", "ft1", "ft2", "ft3", "average").families
    assert (family.base, family.confidence) == ("base", "medium")
    assert "average is a merge: +0.33 ft1 +0.33 ft2 +0.33 ft3" in family.evidence
    (family,) = home.judged("base", "ft1", "ft2", "ft3", "task").families
    assert (family.base, family.confidence) == ("base", "medium")
    assert "task is a merge: -0.50 base +0.50 ft1 +0.50 ft2 +0.50 ft3" in family.evidence
    (family,) = home.judged("ft1", "ft2", "average").families
    assert family.base is None


def test_a_sum_that_could_be_any_corner_is_not_named(home: Home) -> None:
    """base + task 1 + task 2: a parallelogram, in which each corner is the sum of the others."""
    base = home.fresh("base", 1)
    one, two = (home.tuned(f"ft{seed}", base, noise(base, seed, 0.05)) for seed in (1, 2))
    home.add("sum", combined((-1.0, base), (1.0, one), (1.0, two)))
    (family,) = home.judged().families
    assert (family.base, family.confidence) == (None, "none")
    assert "is a merge" not in " ".join(family.evidence)


def test_the_middle_of_a_chain_lies_between(home: Home) -> None:
    base = home.fresh("base", 1)
    task = noise(base, 1, 0.05)
    home.tuned("middle", base, task)
    home.tuned("end", base, {n: 2 * t + 0.2 * noise(base, 2, 0.05)[n] for n, t in task.items()})
    (family,) = home.judged().families
    assert family.base is None
    assert "middle" in family.evidence[1]


def test_the_sample_is_always_the_same_and_small(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = home.fresh("base", 1)
    for seed in (1, 2, 3):
        home.tuned(f"ft{seed}", base, noise(base, seed, 0.05))
    assert home.judged() == home.judged()
    read: list[int] = []

    def counted(self: object, path: Path, start: int, size: int) -> np.ndarray:  # type: ignore[type-arg]
        read.append(size)
        return np.fromfile(path, dtype=np.uint8, count=size, offset=start)

    monkeypatch.setattr("smelt.merge.sources.Files.read", counted)
    small = ancestry(home.models, tensors=3, elements=256)
    assert sum(read) <= 4 * 3 * 256 * 4  # models, tensors, elements, bytes
    assert small.matrices == 3
    assert small.families[0].base == "base"


def test_a_matrix_with_nan_is_no_evidence(home: Home) -> None:
    base = home.fresh("base", 1)
    broken = {name: one.clone() for name, one in base.items()}
    broken["model.layers.0.mlp.up_proj.weight"][:] = float("nan")
    home.add("broken", broken)
    found = home.judged()
    assert found.matrices == len(matrices_of(home.models["base"])) - 1
    assert found.families[0].models == ["base", "broken"]


def test_products_from_moments() -> None:
    numbers = np.random.default_rng(0)
    models = numbers.normal(size=(4, 50))
    steps = np.concatenate([models[:1], models[1:] - models[0]])
    moments = steps @ steps.T
    np.testing.assert_allclose(weight_products(moments), models @ models.T, atol=1e-12)
    for origin in range(4):
        gaps = models - models[origin]
        np.testing.assert_allclose(difference_products(moments, origin), gaps @ gaps.T, atol=1e-12)
    assert np.isnan(cosines_of(np.zeros((2, 2)))).all()


def test_no_matrices_at_all() -> None:
    found = judge(["a", "b"], {})
    assert [family.models for family in found.families] == [["a"], ["b"]]
    assert found.matrices == 0


@pytest.mark.parametrize("alike", [0.0, 0.25])
def test_fine_tunes_that_learn_alike(alike: float) -> None:
    """Task vectors with a common part: up to a cosine of 0.25 (measured) the base is still told."""
    numbers = np.random.default_rng(1)
    shared, own = numbers.normal(size=4000), numbers.normal(size=(3, 4000))
    models = np.zeros((4, 4000))
    models[1:] = np.sqrt(alike) * shared + np.sqrt(1 - alike) * own
    models += 20 * numbers.normal(size=4000)
    steps = np.concatenate([models[:1], models[1:] - models[0]])
    name, confidence, _ = find_base([0, 1, 2, 3], ["base", "a", "b", "c"], steps @ steps.T)
    assert (name, confidence) == ("base", "high")
