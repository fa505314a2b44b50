"""How two results of one recipe are compared: form, values, and what is not compared."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from tests.merge import oracles
from tests.merge.parity_cases import METHODS, Case
from tests.merge.parity_models import LAYERS

EPSILON = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11,
           torch.bfloat16: 2.0**-8}  # fmt: skip
Array = NDArray[np.float64]


@cache
def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, read by safetensors itself."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def assert_same_form(ours: Path, theirs: Path) -> None:
    """Names, shapes, dtypes, config and vocabulary."""
    mine, other = tensors(ours), tensors(theirs)
    assert mine.keys() == other.keys(), mine.keys() ^ other.keys()
    for name in mine:
        assert mine[name].shape == other[name].shape, name
        assert mine[name].dtype == other[name].dtype, name
    first_config, second_config = config_of(ours), config_of(theirs)
    assert first_config == second_config, (first_config, second_config)
    first, second = vocabulary(ours), vocabulary(theirs)
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    assert sorted(first.values()) == sorted(second.values()), "ids"
    text = "Rows <|im_start|> and <|im_end|> <tool>, 12."
    pieces = [
        Tokenizer.from_file(str(one / "tokenizer.json")).encode(text).tokens
        for one in (ours, theirs)
    ]
    assert pieces[0] == pieces[1], pieces
    talks = rendered(ours), rendered(theirs)
    assert talks[0] == talks[1], talks


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


def assert_same_values(home: Path, case: Case, ours: Path, theirs: Path) -> None:
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
    assert not wrong, wrong
    assert left_out <= elements / 8, (left_out, elements)


def shares(folder: Path, base: Path) -> dict[str, tuple[Array, Array]]:
    """Per matrix the task vector of a result and what is not zero in it."""
    start, found = tensors(base), {}
    for name, one in tensors(folder).items():
        delta = one.double().numpy() - start[name].double().numpy()
        found[name] = delta, np.abs(delta) > 1e-9
    return found


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
