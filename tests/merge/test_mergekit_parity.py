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
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from smelt.verbs import merge
from tests.merge.parity_cases import (
    HOME,
    METHODS,
    RANDOM,
    Case,
    absolute,
    cases,
    of_method,
    source,
    stack,
)
from tests.merge.parity_compare import (
    assert_same_form,
    assert_same_values,
    by_token,
    config_of,
    formula,
    shares,
    sources,
    steps,
    tensors,
    undecided,
    vocabulary,
)
from tests.merge.parity_models import LAYERS, make_all

PYTHON = os.environ.get("SMELT_MERGEKIT_PYTHON")
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="SMELT_MERGEKIT_PYTHON names no python with mergekit"
)
CASES = cases()
COMMAND_LINE = ["linear-float32-bf16-tied-one", "ties-float32-f32-untied-shards", "union-padded"]
TOWER = CASES["vision"].recipe["modules"]["text_decoder"]
# Recipes that the two read differently on purpose (DIFFERENCES), for mergekit alone.
APART = {
    "linear-with-base": Case(
        of_method("linear", HOME, "float32").recipe
        | {"base_model": "base", "parameters": {"weight": 0.4}}
    ),
    "karcher-with-base": Case(
        of_method("karcher", HOME, "float32").recipe | {"base_model": "base"}
    ),
    "decoder": Case(CASES["vision"].recipe | {"modules": {"text_decoder": TOWER}}, "vision"),
    "stacked-union": Case(
        stack(
            "passthrough",
            {"sources": [source("base", 0, 3)]},
            {"sources": [source("e1", 1, LAYERS)]},
            base_model="base",
            tokenizer_source="union",
        ),
        "tokens",
    ),
    "tied-and-untied": Case(
        {
            "merge_method": "task_arithmetic",
            "base_model": "tied",
            "dtype": "float32",
            "models": [{"model": "untied", "parameters": {"weight": 0.5}}],
        },
        "mixed",
    ),
}
ROUNDED = {name: f"{name}-bfloat16" for name in METHODS if name not in RANDOM}
CHANCE = [name for name in CASES if name.partition("-")[0] in RANDOM]
SAME = [name for name in CASES if name not in [*CHANCE, *ROUNDED.values()]]
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


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
        capture_output=True, text=True, env=os.environ | OFFLINE,
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


@pytest.mark.parametrize("name", SAME)
def test_same_model(home: Path, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    theirs = by_mergekit(home, name)
    ours = by_smelt(home, case, tmp_path / "out")
    assert_same_form(ours, theirs)
    assert_same_values(home, case, ours, theirs)


@pytest.mark.parametrize("name", CHANCE)
def test_random_methods_agree_on_average(home: Path, tmp_path: Path, name: str) -> None:
    """Elements kept, sum of magnitudes, and projection on plain task arithmetic: the same within
    what chance allows. Both keep each of n elements with a chance of about a half."""
    case = CASES[name]
    theirs, ours = by_mergekit(home, name), by_smelt(home, case, tmp_path / "out")
    assert_same_form(ours, theirs)
    base = home / case.family / "base"
    mine, other = shares(ours, base), shares(theirs, base)
    plain_name = f"task_arithmetic-float32-{case.family}"
    plain = shares(by_mergekit(home, plain_name), base)
    for tensor, (_, moved) in plain.items():
        size = int(moved.sum())
        if size < 2000:
            continue
        slack = 6 / np.sqrt(size)
        (a, kept), (b, also) = mine[tensor], other[tensor]
        assert kept.sum() / size == pytest.approx(also.sum() / size, abs=slack), tensor
        assert np.abs(a).sum() == pytest.approx(np.abs(b).sum(), rel=2 * slack), tensor
    # Over the whole model chance leaves little: about half a per cent.
    sums = np.array([
        [np.vdot(one[name][0], direction) for one in (mine, other)]
        for name, (direction, _) in plain.items() if direction.ndim > 1
    ]).sum(axis=0)  # fmt: skip
    size = sum(int(moved.sum()) for _, moved in plain.values())
    assert sums[0] == pytest.approx(sums[1], rel=10 / np.sqrt(size))


@pytest.mark.parametrize("name", ROUNDED)
def test_bfloat16_is_the_rounded_formula(home: Path, tmp_path: Path, name: str) -> None:
    case = CASES[f"{name}-bfloat16"]
    theirs = tensors(by_mergekit(home, f"{name}-bfloat16"))
    ours = tensors(by_smelt(home, case, tmp_path / "out"))
    equal, beside, elements, far = 0, 0, 0, {}
    for tensor, mine in ours.items():
        base, found = sources(home, case, tensor)
        exact = formula(name, base, found)
        rounded = torch.from_numpy(exact).to(torch.bfloat16)
        apart = steps(mine, rounded)
        equal += int((apart == 0).sum())
        beside += int((steps(theirs[tensor].to(torch.bfloat16), rounded) == 0).sum())
        elements += apart.numel()
        # Near zero a bfloat16 is finer than the float32 of its sources can be.
        noise = 2.0**-23 * np.max(np.abs(np.stack([base, *found])), axis=0)
        off = (apart.numpy() > 1) & (np.abs(mine.double().numpy() - exact) > noise)
        off &= ~undecided(case, tensor, base, found)
        if off.any():
            far[tensor] = int(apart.numpy()[off].max())
    print(f"{name}: equal to the rounded formula {equal / elements:.4f}, "
          f"mergekit {beside / elements:.4f}", file=sys.stderr)  # fmt: skip
    assert equal >= 0.985 * elements
    assert equal >= beside
    assert not far


@pytest.mark.parametrize("name", COMMAND_LINE)
def test_both_command_lines(home: Path, tmp_path: Path, name: str) -> None:
    """The command lines make what the two libraries made."""
    case, config = CASES[name], str(home / f"{name}.yaml")
    environment = os.environ | OFFLINE
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
        rows = one.double().numpy()
        if case.family in ("tokens", "pieces") and one.ndim == 2 and "layers" not in tensor:
            rows = by_token(rows, tmp_path / "a", by_mergekit(home, name))
        # The order of a union is chance in each process, and means are summed in that order.
        assert np.abs(rows - library[tensor].double().numpy()).max() <= 1e-8, tensor
    assert_same_form(tmp_path / "b", tmp_path / "a")
    assert_same_values(home, case, tmp_path / "b", tmp_path / "a")


@pytest.mark.parametrize("name", ["linear", "karcher"])
def test_an_unlisted_base_model_is_no_input(home: Path, tmp_path: Path, name: str) -> None:
    """DIFFERENCES, base_model of linear, karcher."""
    ours = by_smelt(home, APART[f"{name}-with-base"], tmp_path / "out")
    without = CASES[f"{name}-float32-{HOME}"]
    assert_same_values(home, without, ours, by_mergekit(home, f"{name}-float32-{HOME}"))
    with pytest.raises(AssertionError, match="error"):
        assert_same_values(home, without, ours, by_mergekit(home, f"{name}-with-base"))


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
    ours = by_smelt(home, CASES["union"], tmp_path / "out")
    assert json.loads((ours / "generation_config.json").read_text()) == {"max_new_tokens": 17}
    assert not (by_mergekit(home, "union") / "generation_config.json").exists()


def test_a_module_left_out_is_the_base_s(home: Path, tmp_path: Path) -> None:
    """DIFFERENCES, modules left out."""
    ours = tensors(by_smelt(home, APART["decoder"], tmp_path / "out"))
    theirs, base = tensors(by_mergekit(home, "decoder")), tensors(home / "vision" / "base")
    assert ours.keys() == base.keys()
    assert theirs.keys() == {name for name in base if not name.startswith("visual.")}
    for name in base:
        if name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=3e-7)
        else:
            assert torch.equal(ours[name], base[name]), name


def test_a_token_of_no_model_of_the_tensor(home: Path, tmp_path: Path) -> None:
    """DIFFERENCES, token that no model of a tensor has: here the embedding is the base's alone."""
    ours = by_smelt(home, APART["stacked-union"], tmp_path / "out")
    theirs, name = by_mergekit(home, "stacked-union"), "model.embed_tokens.weight"
    own = vocabulary(home / "tokens" / "e1")
    row = tensors(home / "tokens" / "e1")[name][own["<|im_end|>"]]
    place = vocabulary(ours)["<|im_end|>"]
    assert torch.equal(tensors(ours)[name][place], row)
    assert not tensors(theirs)[name][vocabulary(theirs)["<|im_end|>"]].any()
    for other in tensors(theirs).keys() - {name, "lm_head.weight"}:
        assert torch.equal(tensors(ours)[other], tensors(theirs)[other]), other
