"""Whole checkpoints through both tools, opt-in: SMELT_MERGEKIT_PYTHON names a python with mergekit.

SMELT_MERGEKIT_PYTHON=/path/to/python pytest tests/merge/test_mergekit_parity.py

mergekit 0.1.5 merges everything in one process first; then each test merges the same recipe with
smelt and compares names, shapes, dtypes, values, config and tokenizer. What differs on purpose is
listed in parity_cases.DIFFERENCES and nowhere else.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from smelt.verbs import merge
from tests.merge import oracles
from tests.merge.parity_cases import (
    HOME,
    METHODS,
    RANDOM,
    SPHERICAL,
    Case,
    absolute,
    cases,
    of_method,
)
from tests.merge.parity_models import make_all

PYTHON = os.environ.get("SMELT_MERGEKIT_PYTHON")
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="SMELT_MERGEKIT_PYTHON names no python with mergekit"
)
CASES = cases()
COMMAND_LINE = ["linear-float32-bf16-tied-one", "ties-float32-f32-untied-shards", "union-padded"]
# Recipes that the two read differently on purpose (DIFFERENCES), for mergekit alone.
APART = {
    "linear-with-base": Case(
        of_method("linear", HOME, "float32").recipe
        | {"base_model": "base", "parameters": {"weight": 0.4}}
    ),
    "karcher-with-base": Case(of_method("karcher", HOME, "float32").recipe | {"base_model": "base"}),
    "tied-and-untied": Case(
        {
            "merge_method": "task_arithmetic",
            "base_model": "tied",
            "dtype": "float32",
            "models": [{"model": "untied", "parameters": {"weight": 0.5}}],
        },
        "mixed",
    ),
}  # fmt: skip
EPSILON = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11,
           torch.bfloat16: 2.0**-8}  # fmt: skip
Array = NDArray[np.float64]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, recipes, and what mergekit made of them."""
    home = tmp_path_factory.mktemp("parity")
    make_all(home)
    (home / "mergekit").mkdir()
    jobs = []
    for name, case in (CASES | APART).items():
        config, out = home / f"{name}.yaml", home / "mergekit" / name
        config.write_text(yaml.safe_dump(absolute(case.recipe, home / case.family)))
        jobs.append({"config": str(config), "out": str(out), "shard": case.shard})
    (home / "jobs.json").write_text(json.dumps(jobs))
    runner = str(Path(__file__).with_name("mergekit_runs.py"))
    done = subprocess.run(
        [str(PYTHON), runner, str(home / "jobs.json")],
        capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return home


def by_mergekit(home: Path, name: str) -> Path:
    """The folder that mergekit made, or a failure with its words."""
    error = home / "mergekit" / f"{name}.error"
    if error.exists():
        pytest.fail(f"mergekit refused it:\n{error.read_text()[-800:]}")
    return home / "mergekit" / name


def by_smelt(home: Path, case: Case, out: Path) -> Path:
    """The same recipe, and what only ours says."""
    recipe = absolute(case.recipe, home / case.family)
    if case.ours:
        recipe["parameters"] = recipe.get("parameters", {}) | case.ours
    merge.execute(recipe, out, where="recipe", seed=7, smoke=False)
    return out


@cache
def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, read by safetensors itself."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def same_form(ours: Path, theirs: Path) -> None:
    """Names, shapes, dtypes, config and vocabulary."""
    mine, other = tensors(ours), tensors(theirs)
    assert mine.keys() == other.keys()
    for name in mine:
        assert mine[name].shape == other[name].shape, name
        assert mine[name].dtype == other[name].dtype, name
    assert config_of(ours) == config_of(theirs)
    first, second = (Tokenizer.from_file(str(one / "tokenizer.json")) for one in (ours, theirs))
    assert first.get_vocab() == second.get_vocab()
    text = "Rows <|im_start|> and <|im_end|> <tool>, 12."
    assert first.encode(text).ids == second.encode(text).ids
    templates = [AutoTokenizer.from_pretrained(one).chat_template for one in (ours, theirs)]
    assert templates[0] == templates[1]


def config_of(folder: Path) -> dict[str, Any]:
    data = AutoConfig.from_pretrained(folder).to_dict()
    return {key: one for key, one in data.items() if key != "transformers_version"}


def undecided(case: Case, base: Array, found: list[Array]) -> NDArray[np.bool_]:
    """Elements that rounding or an arbitrary choice decides: DIFFERENCES, equal magnitudes."""
    entries = [one for one in case.recipe["models"] if one["model"] != "base"]
    result = np.zeros(base.shape, dtype=bool)
    deltas = [one - base for one in found]
    kept = []
    for delta, entry in zip(deltas, entries, strict=True):
        own = entry.get("parameters", {})
        density, size, places = own.get("density", 1.0), delta.size, np.sort(np.abs(delta).ravel())
        if isinstance(density, list) or case.method == "undecided":
            # Any threshold: only that the votes cancel can be told without the layer.
            kept.append(delta)
            continue
        if case.method == "ties":
            count = max(1, int(density * size))
            low, high = places[size - count], np.inf
        elif case.method.startswith("breadcrumbs"):
            target, top = int(density * size), int(own["gamma"] * size)
            bottom = max(0, size - target - top)
            low, high = places[bottom], places[bottom + target - 1]
        else:
            low, high = -np.inf, np.inf
        result |= (np.abs(delta) == low) | (np.abs(delta) == high)
        kept.append(np.where((np.abs(delta) >= low) & (np.abs(delta) <= high), delta, 0))
    if case.method == "sce":
        variance = np.var(np.stack(deltas), axis=0)
        count = int(case.recipe["parameters"]["select_topk"] * np.count_nonzero(variance))
        low = np.sort(variance.ravel())[::-1][count - 1] if count else np.inf
        result |= np.abs(variance - low) <= 1e-5 * low
        kept = [np.where(variance >= low, delta, 0) for delta in deltas]
    if case.method in ("ties", "breadcrumbs_ties", "sce"):
        mass, most = np.abs(sum(kept)), sum(np.abs(one) for one in kept)
        result |= (mass <= 1e-6 * most) & (most > 0)
    return result


def sources(home: Path, case: Case, name: str) -> tuple[Array, list[Array]]:
    """The base's tensor and the experts' in float64."""
    listed = [one["model"] for one in case.recipe["models"]]
    read = [tensors(home / case.family / one)[name].double().numpy()
            for one in ["base", *(one for one in listed if one != "base")]]  # fmt: skip
    return read[0], read[1:]


def same_values(home: Path, case: Case, ours: Path, theirs: Path) -> None:
    """Every tensor to the case's tolerance, relative to how far it moved from the base, beside
    what the type of the result cannot tell apart; what is undecided is not compared."""
    mine, other, start = tensors(ours), tensors(theirs), tensors(home / case.family / case.base)
    left_out, elements, wrong = 0, 0, {}
    for name in other:
        a, b = mine[name].double().numpy(), other[name].double().numpy()
        exempt = np.zeros(b.shape, dtype=bool)
        if case.method in ("ties", "breadcrumbs", "breadcrumbs_ties", "sce"):
            exempt = undecided(case, *sources(home, case, name))
        left_out, elements = left_out + int(exempt.sum()), elements + exempt.size
        fits = name in start and start[name].shape == b.shape
        moved = b - start[name].double().numpy() if fits else 0.05 * b
        error = float(np.linalg.norm((a - b)[~exempt]))
        rounding = 4 * EPSILON[other[name].dtype] * float(np.linalg.norm(b))
        allowed = case.tolerance * float(np.linalg.norm(moved)) + rounding
        if not error <= allowed:
            wrong[name] = f"error {error:.2e}, allowed {allowed:.2e}"
    assert not wrong
    assert left_out <= 0.1 * elements


@pytest.mark.parametrize(
    "name", [n for n in CASES if n.partition("-")[0] not in RANDOM and not n.endswith("-bfloat16")
             or n == "out-bfloat16"]
)  # fmt: skip
def test_same_model(home: Path, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    theirs = by_mergekit(home, name)
    ours = by_smelt(home, case, tmp_path / "out")
    same_form(ours, theirs)
    same_values(home, case, ours, theirs)


def shares(folder: Path, base: Path) -> dict[str, tuple[Array, Array]]:
    """Per matrix the task vector of a result and what is not zero in it."""
    start, found = tensors(base), {}
    for name, one in tensors(folder).items():
        delta = one.double().numpy() - start[name].double().numpy()
        found[name] = delta, np.abs(delta) > 1e-9
    return found


@pytest.mark.parametrize("name", [n for n in CASES if n.partition("-")[0] in RANDOM])
def test_random_methods_agree_on_average(home: Path, tmp_path: Path, name: str) -> None:
    """Elements kept, sum of magnitudes, and projection on plain task arithmetic: the same within
    what chance allows. Both keep each of n elements with a chance of about a half."""
    case = CASES[name]
    theirs, ours = by_mergekit(home, name), by_smelt(home, case, tmp_path / "out")
    same_form(ours, theirs)
    base = home / case.family / "base"
    mine, other = shares(ours, base), shares(theirs, base)
    plain_name = f"task_arithmetic-float32-{case.family}"
    plain = shares(by_mergekit(home, plain_name), base)
    for tensor, (direction, moved) in plain.items():
        size = int(moved.sum())
        if size < 2000:
            continue
        slack = 6 / np.sqrt(size)
        (a, kept), (b, also) = mine[tensor], other[tensor]
        assert kept.sum() / size == pytest.approx(also.sum() / size, abs=slack), tensor
        assert np.abs(a).sum() == pytest.approx(np.abs(b).sum(), rel=2 * slack), tensor
        along = [float(np.vdot(one, direction) / np.vdot(direction, direction)) for one in (a, b)]
        assert along[0] == pytest.approx(along[1], rel=2 * slack), tensor


def formula(name: str, base: Array, found: list[Array]) -> Array:
    """The method in float64, by the oracle."""
    method = METHODS[name]
    each = {key: [value] * len(found) for key, value in method.each.items() if key != "scale"}
    whole = {"density" if key == "select_topk" else key: one for key, one in method.whole.items()}
    if name == "passthrough":
        each = {"scale": method.each["scale"]}
    start = base if method.base or method.listed else None
    return getattr(oracles, name)(start, found, **each, **whole, **method.ours)


def steps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How many bfloat16 values apart."""
    bits = [one.view(torch.int16).int() for one in (a, b)]
    first, second = (torch.where(one < 0, -32768 - one, one) for one in bits)
    return (first - second).abs()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in RANDOM])
def test_bfloat16_is_the_rounded_formula(home: Path, tmp_path: Path, name: str) -> None:
    case = CASES[f"{name}-bfloat16"]
    theirs = tensors(by_mergekit(home, f"{name}-bfloat16"))
    ours = tensors(by_smelt(home, case, tmp_path / "out"))
    equal, beside, elements, far = 0, 0, 0, {}
    for tensor, mine in ours.items():
        exact = torch.from_numpy(formula(name, *sources(home, case, tensor))).to(torch.bfloat16)
        apart = steps(mine, exact)
        equal += int((apart == 0).sum())
        beside += int((steps(theirs[tensor], exact) == 0).sum())
        elements += apart.numel()
        if int(apart.max()) > 1:
            far[tensor] = int(apart.max())
    print(f"{name}: equal to the rounded formula {equal / elements:.4f}, "
          f"mergekit {beside / elements:.4f}", file=sys.stderr)  # fmt: skip
    assert equal >= 0.985 * elements
    assert equal >= beside
    assert not far


@pytest.mark.parametrize("name", COMMAND_LINE)
def test_both_command_lines(home: Path, tmp_path: Path, name: str) -> None:
    """The command lines make what the two libraries made."""
    case, config = CASES[name], str(home / f"{name}.yaml")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    shard = ["--out-shard-size", str(case.shard)]
    smelt = str(Path(sys.executable).with_name("smelt"))
    for command in (
        [str(Path(str(PYTHON)).with_name("mergekit-yaml")), config, str(tmp_path / "a"), *shard],
        [smelt, "merge", config, str(tmp_path / "b"), "--no-smoke"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
    library = tensors(by_mergekit(home, name))
    for tensor, one in tensors(tmp_path / "a").items():
        assert torch.equal(one, library[tensor]), tensor
    same_form(tmp_path / "b", tmp_path / "a")
    same_values(home, case, tmp_path / "b", tmp_path / "a")


@pytest.mark.parametrize("name", ["linear", "karcher"])
def test_an_unlisted_base_model_is_no_input(home: Path, tmp_path: Path, name: str) -> None:
    """DIFFERENCES, base_model of linear, karcher."""
    ours = by_smelt(home, APART[f"{name}-with-base"], tmp_path / "out")
    without = CASES[f"{name}-float32-{HOME}"]
    same_values(home, without, ours, by_mergekit(home, f"{name}-float32-{HOME}"))
    with pytest.raises(AssertionError, match="error"):
        same_values(home, without, ours, by_mergekit(home, f"{name}-with-base"))


def test_a_tied_base_with_an_untied_expert(home: Path, tmp_path: Path) -> None:
    """DIFFERENCES, tied base, untied expert: all but the head agrees, ours says what it holds."""
    case, theirs = APART["tied-and-untied"], by_mergekit(home, "tied-and-untied")
    ours = by_smelt(home, case, tmp_path / "out")
    mine, other = tensors(ours), tensors(theirs)
    assert "lm_head.weight" in mine
    assert config_of(ours)["tie_word_embeddings"] is False
    assert config_of(theirs)["tie_word_embeddings"] is True
    body = [name for name in other if name != "lm_head.weight"]
    assert mine.keys() >= set(body)
    for name in body:
        torch.testing.assert_close(mine[name], other[name], rtol=0, atol=1e-7)


def test_generation_config_is_kept(home: Path, tmp_path: Path) -> None:
    """DIFFERENCES, generation_config.json."""
    ours = by_smelt(home, replace(CASES["union"], tolerance=SPHERICAL), tmp_path / "out")
    assert json.loads((ours / "generation_config.json").read_text()) == {"max_new_tokens": 17}
    assert not (by_mergekit(home, "union") / "generation_config.json").exists()
