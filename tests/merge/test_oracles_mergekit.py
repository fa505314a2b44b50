"""The oracles against mergekit 0.1.5, opt-in: SMELT_MERGEKIT_PYTHON names a python that has it.

SMELT_MERGEKIT_PYTHON=/path/to/python pytest tests/merge/test_oracles_mergekit.py
"""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.merge import mergekit_values, oracles

PYTHON = os.environ.get("SMELT_MERGEKIT_PYTHON")
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="SMELT_MERGEKIT_PYTHON names no python with mergekit"
)

# Largest error allowed, relative to the norm of what the merge changed. SINGLE: mergekit holds the
# thinned task vectors of random methods, and the factors of ramplus_tl, in float32 for any input.
EXACT, SINGLE = 1e-12, 1e-6

SHAPES = {"matrix": (24, 36), "vector": (50,), "stack": (3, 8, 10), "one": (1,), "column": (6, 1)}
EXPERTS = ["ordinary", "small", "equal", "some_zero", "opposite", "like_base"]
W3, D3 = [0.7, 0.2, 0.4], [0.5, 0.31, 0.8]


@dataclass(frozen=True)
class Case:
    method: str
    shape: str = "matrix"
    kind: str = "ordinary"
    count: int = 3
    base: bool = True
    ours: dict[str, Any] = field(default_factory=dict)
    tolerance: float = EXACT

    @property
    def masks(self) -> bool:
        return self.method.startswith(("dare", "della"))

    def draws(self) -> list[int]:
        """The experts for which mergekit draws a mask."""
        if not self.masks:
            return []
        least = -1.0 if self.method.startswith("dare") else 0.0
        return [i for i, density in enumerate(self.ours["density"]) if least < density < 1]

    def __str__(self) -> str:
        chosen = "-".join(f"{key}={value}" for key, value in self.ours.items() if key != "rule")
        return f"{self.method}-{self.shape}-{self.kind}-{self.count}-{self.base}-{chosen}"

    def parameters(self) -> dict[str, Any]:
        """What mergekit gets."""
        shared = {key: value for key, value in self.ours.items() if key != "rule"}
        shared = {{"lambda_": "lambda"}.get(key, key): value for key, value in shared.items()}
        if "density" in shared and self.method == "sce":
            shared["select_topk"] = shared.pop("density")
        return shared

    def arrays(self) -> dict[str, np.ndarray]:
        """base, experts 0.. and masks, the same for the same case."""
        random = np.random.default_rng(7)
        shape = SHAPES[self.shape]
        base = random.normal(0, 0.02, shape)
        scale = 2e-5 if self.kind == "small" else 1e-3
        deltas = [random.normal(0, scale * (i + 1), shape) for i in range(self.count)]
        if self.kind == "equal":
            deltas = [deltas[0]] * self.count
        if self.kind == "some_zero":
            deltas = [np.where(random.random(shape) < 0.6, 0, delta) for delta in deltas]
        if self.kind == "opposite":
            deltas = [deltas[0] * (-1) ** i for i in range(self.count)]
        if self.kind == "like_base":
            deltas = [np.zeros(shape)] * self.count
        far = self.kind == "ordinary" and self.method in ("slerp", "karcher", "nuslerp")
        experts = [(0 if far else base) + delta * (30 if far else 1) for delta in deltas]
        found = {"base": base} | {str(i): expert for i, expert in enumerate(experts)}
        return found | {f"mask{i}": random.random(shape) < 0.6 for i in range(self.count)}

    def oracle(self) -> np.ndarray:
        arrays = self.arrays()
        extra = {"masks": [arrays[f"mask{i}"] for i in range(self.count)]} if self.masks else {}
        experts = [arrays[str(i)] for i in range(self.count)]
        base = arrays["base"] if self.base else None
        return getattr(oracles, self.method)(base, experts, **self.ours, **extra)


def cases() -> list[Case]:
    """Every method of mergekit over shapes, awkward experts and parameters."""
    made: list[Case] = []

    def add(method: str, *, only: str | None = None, **rest: Any) -> None:
        for shape in SHAPES if only is None else [only]:
            made.append(Case(method, shape=shape, **rest))

    for count in (1, 3):
        add("linear", base=False, count=count, ours={"weight": W3[:count]})
        add("karcher", base=False, count=count)
    add("linear", base=False, ours={"weight": [0.5, -0.2, 1.0], "normalize": False})
    add("karcher", base=False, ours={"max_iter": 2, "tol": 1e-3})
    add("passthrough", base=False, count=1, ours={"scale": 1.25})
    for t in (0.0, 0.3, 1.0):
        add("slerp", count=1, ours={"t": t})
        add("nearswap", count=1, ours={"t": t * 1e-3})
    for weight in ([0.3, 0.9], [1.0, -1.0], [0.5, 0.5]):
        add("nuslerp", count=2, ours={"weight": weight})
    for base in (True, False):
        flat = {"weight": [0.3, 0.9], "nuslerp_flatten": False}
        add("nuslerp", count=2, base=base, ours=flat)
        add("nuslerp", count=2, base=base, ours=flat | {"nuslerp_row_wise": True})
        add("multislerp", base=base, ours={"weight": W3})
        add("multislerp", base=base, ours={"weight": W3, "normalize_weights": False})
    add("multislerp", count=1, ours={"weight": [0.4]})
    for count in (2, 3, 4):
        add("model_stock", count=count, ours={"rule": "mergekit"})
        add("model_stock", count=count, ours={"rule": "mergekit", "filter_wise": True})
    add("arcee_fusion", count=1, tolerance=1e-9)
    for kind in EXPERTS:
        one = {"kind": kind, "only": "matrix"}
        add("task_arithmetic", **one, ours={"weight": W3, "lambda_": 0.7})
        add("task_arithmetic", **one, ours={"weight": W3, "normalize": True})
        for density in ([1.0] * 3, D3, [0.0, 0.001, 0.5]):
            some = {"weight": W3, "density": density}
            add("ties", **one, ours=some)
            add("ties", **one, ours=some | {"rescale": True, "lambda_": 0.4})
            add("ties", **one, ours=some | {"weight": [0.5, -0.3, 1.0], "normalize": False})
            for name in ("breadcrumbs", "breadcrumbs_ties"):
                gamma = {"gamma": [0.01, 0.1, 0.6]}
                add(name, **one, ours=some | gamma)
                add(name, **one, ours=some | gamma | {"normalize": True, "rescale": True})
            old = some | {"rule": "mergekit"}
            for name in ("dare_linear", "dare_ties"):
                add(name, **one, ours=old, tolerance=SINGLE)
                add(name, **one, ours=old | {"rescale": False, "normalize": True}, tolerance=SINGLE)
            old["density"] = [one_or_half(value) for value in density]
            for name in ("della", "della_linear"):
                width = {"epsilon": [0.1, 0.15, 0.05]}
                add(name, **one, ours=old | width, tolerance=SINGLE)
                add(name, **one, ours=old | width | {"rescale": False}, tolerance=SINGLE)
        for density in (1.0, 0.3, 0.0):
            add("sce", **one, ours={"density": density, "rule": "mergekit"})
        add("ram", **one)
        add("ram", **one, ours={"epsilon": 5e-4})
        boosted = {"epsilon": 5e-4, "r": 0.3, "alpha": 0.5}
        add("ramplus_tl", **one, ours=boosted, tolerance=SINGLE)
        add("karcher", **one, base=False)
        add("slerp", **one, count=1, ours={"t": 0.4})
        add("model_stock", **one, ours={"rule": "mergekit"}, tolerance=1e-11)
    for name in ("ties", "breadcrumbs", "breadcrumbs_ties"):
        add(name, ours={"weight": W3, "density": D3})
    add("sce", ours={"density": 0.4, "rule": "mergekit"})
    for shape in ("matrix", "vector"):
        width = {"epsilon": [0.1] * 3, "density": [0.5] * 3, "weight": W3, "rule": "mergekit"}
        add("della", only=shape, ours=width, tolerance=SINGLE)
    return [case for case in made if comparable(case)]


def one_or_half(density: float) -> float:
    """A density that DELLA's epsilon allows."""
    return density if density in (0.0, 1.0) else min(max(density, 0.3), 0.7)


def comparable(case: Case) -> bool:
    """Leave out where mergekit keeps an arbitrary subset of equal variances or ranks."""
    if case.method == "sce":
        tied = case.kind in ("some_zero", "equal", "opposite", "like_base") or case.shape == "one"
        return not tied or case.ours["density"] in (0.0, 1.0)
    return not (case.method.startswith("della") and case.kind in ("some_zero", "like_base"))


CASES = cases()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What mergekit makes of all cases, in one process."""
    home = tmp_path_factory.mktemp("mergekit")
    return run_mergekit(home, CASES, "float64")


def run_mergekit(home: Path, some: list[Case], dtype: str) -> dict[str, np.ndarray]:
    described = [
        {
            "method": case.method,
            "parameters": case.parameters(),
            "base": case.base,
            "experts": case.count,
            "draws": case.draws(),
            "dtype": dtype,
        }
        for case in some
    ]
    (home / "cases.json").write_text(json.dumps(described))
    arrays = {
        f"{number}/{name}": array
        for number, case in enumerate(some)
        for name, array in case.arrays().items()
    }
    np.savez(home / "in.npz", **arrays)
    script = Path(mergekit_values.__file__)
    paths = [home / "cases.json", home / "in.npz", home / "out.npz"]
    command = [str(PYTHON), str(script), *map(str, paths)]
    subprocess.run(command, check=True, cwd=home, timeout=600)
    with np.load(home / "out.npz") as found:
        return dict(found)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(case) for case in CASES])
def test_oracle_is_mergekit(number: int, theirs: dict[str, np.ndarray]) -> None:
    case = CASES[number]
    expected, found = theirs[str(number)], case.oracle()
    assert error(case, found, expected) <= case.tolerance


def error(case: Case, found: np.ndarray, expected: np.ndarray) -> float:
    """Distance over the size of the change, or of the result where no base is."""
    origin = case.arrays()["base"] if case.base else np.zeros_like(expected)
    size = np.linalg.norm(expected - origin)
    # A change below the rounding of the weights themselves cannot be told from none.
    least = 1e-4 * np.linalg.norm(origin)
    return float(np.linalg.norm(found - expected) / max(size, least, 1e-300))


def test_della_draws_with_the_oracles_probabilities(theirs: dict[str, np.ndarray]) -> None:
    compared = 0
    for number, case in enumerate(CASES):
        if not case.method.startswith("della") or case.kind not in ("ordinary", "small"):
            continue
        arrays = case.arrays()
        for i in case.draws():
            delta = arrays[str(i)] - arrays["base"]
            density, epsilon = case.ours["density"][i], case.ours["epsilon"][i]
            ours = oracles.keep_probability(delta, density, epsilon)
            chance = theirs[f"{number}/chance{i}"].reshape(ours.shape)
            np.testing.assert_allclose(ours, chance, atol=1e-6)
            compared += 1
    assert compared > 10
