"""smelt itself against mergekit 0.1.5 on random merges of one tensor, in float32 and float64.

Opt-in: SMELT_MERGEKIT_PYTHON=/path/to/python pytest tests/merge/test_smelt_mergekit.py, where that
python has mergekit. All cases are drawn first, and one process of mergekit merges them.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smelt.merge.method import load_method, merge_arrays
from tests.merge import mergekit_values
from tests.merge.drawn_cases import METHODS, OWN_RULE, RANDOM, SPHERICAL, Array, Case, draw

PYTHON = os.environ.get("SMELT_MERGEKIT_PYTHON")
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="SMELT_MERGEKIT_PYTHON names no python with mergekit"
)

EACH, SEED = 60, 20261121
DTYPES = ["float32", "float64"]
# In float32 mergekit loses the divergence of near rows in the rounding of its terms, and with it
# the choice of elements; smelt computes it in float64. mergekit gets the same numbers in float64.
DOUBLE = ["arcee_fusion"]

Key = tuple[str, str]
Merged = dict[Key, list[tuple[Case, Array]]]


def tolerance(method: str, dtype: str) -> float:
    """Of the largest task vector, or of the result's change where that is larger.

    merging.md, 6.2. mergekit holds the thinned task vectors of random methods, and the factors of
    ramplus_tl, in float32 for any input.
    """
    if dtype == "float32":
        return 1e-3 if method in SPHERICAL else 1e-5
    return 1e-6 if method in RANDOM or method == "ramplus_tl" else 1e-12


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    """All cases and what mergekit makes of them, by method and dtype."""
    home, random = tmp_path_factory.mktemp("drawn"), np.random.default_rng(SEED)
    keys = [(method, dtype) for method in METHODS for dtype in DTYPES for _ in range(EACH)]
    cases = [draw(random, *key) for key in keys]
    described, arrays = [], {}
    for number, case in enumerate(cases):
        described.append(
            {
                "method": case.method,
                "parameters": case.theirs(),
                "base": case.base is not None,
                "experts": len(case.experts),
                "draws": case.drawn(),
                "dtype": "float64" if case.method in DOUBLE else case.dtype,
            }
        )
        held: dict[str, Any] = {str(i): one for i, one in enumerate(case.experts)}
        held |= {"base": case.base} if case.base is not None else {}
        held |= {f"mask{i}": case.mask(i) for i in case.drawn()}
        arrays |= {f"{number}/{name}": array for name, array in held.items()}
    (home / "cases.json").write_text(json.dumps(described))
    np.savez(home / "in.npz", **arrays)
    paths = [home / "cases.json", home / "in.npz", home / "out.npz"]
    command = [str(PYTHON), str(Path(mergekit_values.__file__)), *map(str, paths)]
    subprocess.run(command, check=True, cwd=home, timeout=600)
    results: Merged = {key: [] for key in keys}
    with np.load(home / "out.npz") as found:
        for number, (key, case) in enumerate(zip(keys, cases, strict=True)):
            results[key].append((case, found[str(number)]))
    return results


def ours(case: Case) -> Array:
    base, experts = case.base, case.experts
    if case.method == "slerp" and base is not None:
        base, experts = None, [base, *experts]
    rule = {"rule": "mergekit"} if case.method in OWN_RULE else {}
    return merge_arrays(load_method(case.method), base, experts, case.values | rule, seed=case.seed)


def error(case: Case, found: Array, expected: Array) -> float:
    """Beyond the rounding of the result, relative; elements that nothing decides do not count."""
    clear = ~case.undecided()
    origin = np.zeros(found.shape) if case.base is None else np.asarray(case.base, np.float64)
    sizes = [*case.vectors, expected - origin]
    size = max(float(np.linalg.norm(one)) for one in sizes)
    models = [origin, expected, *(np.asarray(one, np.float64) for one in case.experts)]
    whole = max(float(np.linalg.norm(one)) for one in models)
    distance = float(np.linalg.norm((found - expected)[clear]))
    rounding = 4 * float(np.finfo(case.dtype).eps) * whole
    return max(0.0, distance - rounding) / max(size, 1e-300)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_smelt_is_mergekit(method: str, dtype: str, theirs: Merged) -> None:
    wrong, left_out, elements = [], 0, 0
    for case, expected in theirs[method, dtype]:
        found = ours(case)
        assert found.dtype == np.dtype(dtype)
        assert found.shape == expected.shape
        far = error(case, found.astype(np.float64), expected)
        if not far <= tolerance(method, dtype):  # also where it is no number
            wrong.append(f"{case}: {far:.2g}")
        left_out += int(case.undecided().sum())
        elements += found.size
    assert not wrong, "\n".join(wrong)
    assert left_out < 0.2 * elements
