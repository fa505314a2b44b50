"""Whole checkpoints through both tools, opt-in: SMELT_MERGEKIT_PYTHON names a python with mergekit.

SMELT_MERGEKIT_PYTHON=/path/to/python pytest tests/merge/test_mergekit_parity.py

mergekit 0.1.5 merges everything in one process first; then each test merges the same recipe with
smelt and compares names, shapes, dtypes, values, config and tokenizer. What differs on purpose is
listed in parity_cases.DIFFERENCES and nowhere else.
"""

import json
import os
import re
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
    source,
    stack,
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
EPSILON = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11,
           torch.bfloat16: 2.0**-8}  # fmt: skip
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
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
    first, second = vocabulary(ours), vocabulary(theirs)
    assert first.keys() == second.keys()
    assert sorted(first.values()) == sorted(second.values())
    text = "Rows <|im_start|> and <|im_end|> <tool>, 12."
    pieces = [
        Tokenizer.from_file(str(one / "tokenizer.json")).encode(text).tokens
        for one in (ours, theirs)
    ]
    assert pieces[0] == pieces[1]
    assert rendered(ours) == rendered(theirs)


def vocabulary(folder: Path) -> dict[str, int]:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()


def rendered(folder: Path) -> list[str]:
    """What the chat template makes of a talk, empty without a template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    roles = ["system", "user", "assistant", "user"]
    talk = [{"role": role, "content": f" Text {n}.\n"} for n, role in enumerate(roles)]
    if tokenizer.chat_template is None:
        return []
    return [
        tokenizer.apply_chat_template(some, tokenize=False, add_generation_prompt=more)
        for some in (talk, talk[1:2])
        for more in (False, True)
    ]


def config_of(folder: Path) -> dict[str, Any]:
    data = AutoConfig.from_pretrained(folder).to_dict()
    return {key: data[key] for key in data.keys() - {"transformers_version", "_name_or_path"}}


def layer_of(name: str) -> int:
    """The layer's number, 0 outside the layers."""
    found = re.search(r"layers\.(\d+)\.", name)
    return int(found[1]) if found else 0


def selected(deltas: Array, share: float, slack: float = 1e-12) -> Array:
    """Task vectors where they vary most, by the rule of mergekit; zero elsewhere."""
    variance = np.var(deltas, axis=0)
    count = int(share * np.count_nonzero(variance))
    low = np.sort(variance.ravel())[::-1][count - 1] if count else np.inf
    return np.where(variance >= low * (1 - slack), deltas, 0.0)


def undecided(case: Case, name: str, base: Array, found: list[Array]) -> NDArray[np.bool_]:
    """Elements that rounding or an arbitrary choice decides: DIFFERENCES, equal magnitudes."""
    entries = [one for one in case.recipe["models"] if one["model"] != "base"]
    result = np.zeros(base.shape, dtype=bool)
    deltas = [one - base for one in found]
    kept = []
    for delta, entry in zip(deltas, entries, strict=True):
        own, size = entry.get("parameters", {}), delta.size
        density, places = own.get("density", 1.0), np.sort(np.abs(delta).ravel())
        if isinstance(density, list):
            share = layer_of(name) / (LAYERS - 1)
            density = (1 - share) * density[0] + share * density[1]
        low, high = -np.inf, np.inf
        if case.method == "ties":
            low = places[size - max(1, int(density * size))]
        elif case.method.startswith("breadcrumbs"):
            target, top = int(density * size), int(own["gamma"] * size)
            bottom = max(0, size - target - top)
            low, high = places[bottom], places[bottom + target - 1]
        result |= (np.abs(delta) == low) | (np.abs(delta) == high)
        kept.append(np.where((np.abs(delta) >= low) & (np.abs(delta) <= high), delta, 0))
    if case.method == "sce":
        share = case.recipe["parameters"]["select_topk"]
        few, many = (selected(np.stack(deltas), share, slack) for slack in (-1e-5, 1e-5))
        result |= ((few == 0) & (many != 0)).any(axis=0)
        kept = [*selected(np.stack(deltas), share)]
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


def by_token(rows: Array, ours: Path, theirs: Path) -> Array:
    """Our rows in the order of their tokenizer; rows without a token stay."""
    order, mine = np.arange(len(rows)), vocabulary(ours)
    for token, place in vocabulary(theirs).items():
        order[place] = mine[token]
    return rows[order]


def same_values(home: Path, case: Case, ours: Path, theirs: Path) -> None:
    """Every tensor to the case's tolerance, relative to how far it moved from the base, beside
    what the type of the result cannot tell apart; what is undecided is not compared."""
    mine, other, start = tensors(ours), tensors(theirs), tensors(home / case.family / "base")
    coarse = case.method == "sce" and case.family.startswith(("f16", "bf16"))
    left_out, elements, wrong = 0, 0, {}
    for name in other:
        a, b = mine[name].double().numpy(), other[name].double().numpy()
        if case.family in ("tokens", "pieces") and b.ndim == 2 and "layers" not in name:
            a = by_token(a, ours, theirs)
        exempt = np.zeros(b.shape, dtype=bool)
        if case.method in ("ties", "breadcrumbs", "breadcrumbs_ties", "sce"):
            exempt = undecided(case, name, *sources(home, case, name))
        if coarse:
            b = formula("sce", *sources(home, case, name))
        left_out, elements = left_out + int(exempt.sum()), elements + exempt.size
        fits = name in start and start[name].shape == b.shape
        moved = b - start[name].double().numpy() if fits else 0.05 * b
        error = float(np.linalg.norm((a - b)[~exempt]))
        rounding = 4 * EPSILON[other[name].dtype] * float(np.linalg.norm(b))
        allowed = case.tolerance * float(np.linalg.norm(moved)) + rounding
        if not error <= allowed:
            wrong[name] = f"error {error:.2e}, allowed {allowed:.2e}"
    assert not wrong
    assert left_out <= elements / 8


@pytest.mark.parametrize("name", SAME)
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


@pytest.mark.parametrize("name", CHANCE)
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
    if name == "sce":
        # The variance of permuted numbers differs in the last bit, but it is one variance.
        found = [
            base + one for one in selected(np.stack(found) - base, method.whole["select_topk"])
        ]
        return oracles.sce(base, found, rule="mergekit")
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
