"""Base, experts and statistics for tests of the methods that mergekit lacks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.merge.method import load_method, merge_arrays

Array = NDArray[Any]
LAYER = "model.layers.0.mlp.up_proj.weight"
ON_MATRICES = ["iso_c", "swudi", "tsv_m", "wudi"]
ALL = [*ON_MATRICES, "consensus", "expo", "fisher", "magmax", "regmean", "varm"]
DEVICES = ["cpu", "torch"]


def models(shape: tuple[int, ...], count: int = 3, *, seed: int = 0, scale: float = 1e-3,
           kind: Any = np.float64) -> tuple[Array, list[Array]]:  # fmt: skip
    random = np.random.default_rng(seed)
    base = np.asarray(0.02 * random.standard_normal(shape), kind)
    sizes = scale * (1 + np.arange(count))
    return base, [np.asarray(base + one * random.standard_normal(shape), kind) for one in sizes]


def grams(columns: int, count: int = 3, *, tokens: int = 60, seed: int = 5) -> list[Array]:
    random = np.random.default_rng(seed)
    # Inputs with a mean and channels of very different size, as in real networks.
    sizes = 10.0 ** random.uniform(-2, 1.5, columns)
    inputs = [sizes * (random.standard_normal((tokens, columns)) + 1) for _ in range(count)]
    return [one.T @ one / tokens for one in inputs]


def merged(
    method: str, base: Array | None, experts: list[Array], *, name: str = LAYER, extras: Any = (),
    device: str = "cpu", block: int = 64, **values: Any,
) -> Array:  # fmt: skip
    return merge_arrays(
        load_method(method), base, experts, values, extras=extras, name=name, device=device,
        block_elements=block,
    )  # fmt: skip


def assert_close(found: Array, expected: Array, base: Array, size: float = 1e-9) -> None:
    """Equal to a share of the merged task vector."""
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= size * np.linalg.norm(expected - base)


def everything(method: str, shape: tuple[int, ...], kind: Any) -> tuple[Array, list[Array], Any]:
    """Base, experts, extras for a method."""
    base, experts = models(shape, 1 if method == "expo" else 3, kind=kind)
    extras: Any = ()
    if method == "regmean" and len(shape) == 2:
        extras = [one.astype(kind) for one in grams(shape[1])]
    if method == "fisher":
        random = np.random.default_rng(9)
        extras = [(random.standard_normal(shape) ** 2).astype(kind) for _ in experts]
    return base, experts, extras
