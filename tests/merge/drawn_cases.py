"""Random merges of one tensor that smelt and mergekit can both do, for test_smelt_mergekit.py."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.core.seed import seed_for
from smelt.merge import ops
from tests.merge import oracles

Array = NDArray[Any]

SHAPES = [(1,), (2,), (9,), (64,), (1, 1), (1, 7), (6, 1), (5, 8), (31, 33), (2, 3, 4), (3, 1, 5)]
CLEAR = ["ordinary", "small", "zero rows", "signed zeros", "one unchanged"]
"""Kinds in which no two magnitudes are equal, but for zeros."""
TIED = ["coarse", "equal", "opposite", "unchanged", "some zero", "all zero"]
SPHERICAL = ["slerp", "nuslerp", "multislerp", "karcher", "model_stock"]
RANDOM = ["dare_linear", "dare_ties", "della", "della_linear"]
COUNTS = {"slerp": (1, 1), "passthrough": (1, 1), "nearswap": (1, 1), "arcee_fusion": (1, 1),
          "nuslerp": (2, 2), "model_stock": (2, 4)}  # fmt: skip
NO_BASE = ["linear", "karcher", "passthrough"]
OWN_RULE = ["ties", "breadcrumbs_ties", *RANDOM, "sce", "model_stock"]
SELECTING = ["ties", "breadcrumbs", "breadcrumbs_ties"]
METHODS = sorted(
    ["linear", "slerp", "passthrough", "task_arithmetic", "ties", "breadcrumbs", "ramplus_tl",
     "breadcrumbs_ties", *RANDOM, "sce", "nuslerp", "multislerp", "karcher", "model_stock", "ram",
     "nearswap", "arcee_fusion"]
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One merge; values are smelt's keywords, without `rule`."""

    method: str
    kind: str
    dtype: str
    base: Array | None
    experts: list[Array]
    values: dict[str, Any]
    seed: int

    def __str__(self) -> str:
        shape = list(self.experts[0].shape)
        based = "" if self.base is not None else ", no base"
        return f"{self.method} {shape} {self.kind} x{len(self.experts)}{based} {self.values}"

    @property
    def vectors(self) -> list[Array]:
        """What is merged, in float64: task vectors, or the experts where there is no base."""
        if self.base is None or self.method == "slerp":
            return [np.asarray(one, np.float64) for one in self.experts]
        return oracles.deltas_of(self.base, self.experts)

    def drawn(self) -> list[int]:
        """The experts for which mergekit draws a mask."""
        if self.method not in RANDOM:
            return []
        least = -1.0 if self.method.startswith("dare") else 0.0
        return [i for i, density in enumerate(self.values["density"]) if least < density < 1]

    def mask(self, place: int) -> Array:
        """What smelt keeps of an expert, from its own random numbers."""
        chance: Any = self.values["density"][place]
        if self.method.startswith("della"):
            width = self.values["epsilon"][place]
            chance = oracles.keep_probability(self.vectors[place], chance, width)
        numbers = ops.uniform(seed_for(self.seed, str(place), ""), 0, self.experts[place])
        return np.asarray(numbers.astype(np.float64) < chance)

    def theirs(self) -> dict[str, Any]:
        """The values under mergekit's names."""
        names = {"lambda_": "lambda"} | ({"density": "select_topk"} if self.method == "sce" else {})
        return {names.get(key, key): value for key, value in self.values.items()}

    def undecided(self) -> Array:
        """Elements that rounding or an arbitrary choice of mergekit decides: magnitudes equal to a
        threshold, sign masses of nothing."""
        vectors, kept = self.vectors, []
        result = np.zeros(vectors[0].shape, dtype=bool)
        for place, one in enumerate(vectors):
            low, high = 0.0, np.inf
            if self.method in SELECTING:
                low, high = _band(self, place)
            size = np.abs(one)
            near = np.minimum(np.abs(size - low), np.abs(size - high)) <= 2**-22 * size
            result |= near & (size > 0)
            kept.append(np.where((size >= low) & (size <= high), one, 0))
        if self.method in RANDOM:
            drawn = self.drawn()
            kept = [one * self.mask(i) if i in drawn else one for i, one in enumerate(kept)]
        if self.method in ("ties", "breadcrumbs_ties", "dare_ties", "della", "sce"):
            weights = self.values.get("weight", [1.0] * len(kept))
            weighted = [w * one for w, one in zip(weights, kept, strict=True)]
            most = sum(np.abs(one) for one in weighted)
            result |= (np.abs(sum(weighted)) <= 1e-6 * most) & (most > 0)
        return result


def _band(case: Case, place: int) -> tuple[float, float]:
    """The magnitudes that mergekit keeps of a task vector: from, to."""
    ordered, density = np.sort(np.abs(case.vectors[place]).ravel()), case.values["density"][place]
    if density >= 1:
        return 0.0, np.inf
    if case.method == "ties":
        if density <= 0:
            return np.inf, np.inf
        return ordered[ordered.size - max(1, int(density * ordered.size))], np.inf
    target = int(density * ordered.size)
    if target == 0:
        return np.inf, np.inf
    top = int(case.values["gamma"][place] * ordered.size)
    bottom = max(0, ordered.size - target - top)
    return ordered[bottom], ordered[bottom + target - 1]


def draw(random: np.random.Generator, method: str, dtype: str) -> Case:
    """A case that has one answer (drawn again until it has)."""
    while True:
        case = _draw(random, method, dtype)
        if _has_one_answer(case):
            return case


def _draw(random: np.random.Generator, method: str, dtype: str) -> Case:
    shape = SHAPES[random.integers(len(SHAPES))]
    # mergekit ranks stacks along their second dimension, and makes NaN of rows of one element.
    while method.startswith("della") and (len(shape) == 3 or shape[-1] == 1):
        shape = SHAPES[random.integers(len(SHAPES))]
    far = ["far"] * 6 if method in SPHERICAL and method != "model_stock" else []
    kinds = CLEAR + TIED + far
    kind = kinds[random.integers(len(kinds))]
    least, most = COUNTS.get(method, (1, 4))
    count = int(random.integers(least, most + 1))
    base, experts = _tensors(random, kind, shape, count, np.dtype(dtype))
    values = _values(random, method, kind, count)
    optional = method in ("nuslerp", "multislerp") and random.random() < 0.5
    given = None if optional or method in NO_BASE else base
    return Case(method, kind, dtype, given, experts, values, int(random.integers(1000)))


def _tensors(
    random: np.random.Generator, kind: str, shape: tuple[int, ...], count: int, dtype: np.dtype[Any]
) -> tuple[Array, list[Array]]:
    base = random.normal(0, 0.02, shape)
    scale = 2e-5 if kind == "small" else 1e-3
    deltas = np.stack([random.normal(0, scale * (i + 1), shape) for i in range(count)])
    if kind == "coarse":
        base = np.round(base * 2**8) / 2**8
        deltas = random.integers(-3, 4, (count, *shape)) / 2**11
    if kind == "equal":
        deltas[:] = deltas[0]
    if kind == "opposite":
        deltas[1:] = -deltas[0]
    if kind == "unchanged":
        deltas[:] = 0
    if kind == "one unchanged":
        deltas[random.integers(count)] = 0
    if kind == "some zero":
        deltas[random.random(deltas.shape) < 0.6] = 0
    if kind == "all zero":
        base, deltas = base * 0, deltas * 0
    if kind == "zero rows":
        rows = random.random(shape[:-1]) < 0.5
        base[rows], deltas[:, rows] = 0, 0
    if kind == "signed zeros":
        base = np.where(random.random(shape) < 0.5, -0.0, 0.0)
    if kind == "far":
        deltas = random.normal(0, 0.03, deltas.shape) - base
    return base.astype(dtype), [np.asarray(base + one).astype(dtype) for one in deltas]


def _values(random: np.random.Generator, method: str, kind: str, count: int) -> dict[str, Any]:
    """Weights are eighths, so that sums of them are exact."""

    def each(choices: list[float]) -> list[float]:
        return [float(random.choice(choices)) for _ in range(count)]

    def flag() -> bool:
        return bool(random.random() < 0.5)

    any_weight = [x / 8 for x in range(-8, 13)]
    positive = [x / 8 for x in range(1, 13)]
    share = [0.0, 1.0, 0.1, 0.5, float(random.uniform(0.05, 1)), float(random.uniform(0.05, 1))]
    scale = float(random.uniform(-2, 2))
    if method == "linear":
        return {"weight": each(any_weight), "normalize": flag()}
    if method == "passthrough":
        return {"scale": float(random.uniform(-2, 2))}
    if method == "slerp":
        return {"t": float(random.choice([0.0, 1.0, random.uniform(0, 1)]))}
    if method == "nearswap":
        return {"t": float(random.choice([0.0, 1e-7, 1e-4, 3e-3, 1.0]))}
    if method == "karcher":
        return {"max_iter": int(random.integers(0, 13))}
    if method == "multislerp":
        return {"weight": each(positive), "normalize_weights": flag()}
    if method == "nuslerp":
        flat, columns = flag(), flag()
        return {"weight": each(positive), "nuslerp_flatten": flat, "nuslerp_row_wise": columns}
    if method == "model_stock":
        return {"filter_wise": flag()}
    if method in ("ram", "ramplus_tl"):
        least: dict[str, Any] = {"epsilon": float(random.choice([1e-5, 3e-4, 1e-2]))}
        boost = {"r": float(random.uniform(0, 2)), "alpha": float(random.uniform(0, 3))}
        return least | (boost if method == "ramplus_tl" else {})
    if method == "sce":
        return {"density": float(random.choice(share)) if kind in CLEAR else 1.0}
    if method == "arcee_fusion":
        return {}
    values: dict[str, Any] = {"weight": each(any_weight), "normalize": flag(), "lambda_": scale}
    if method != "task_arithmetic":
        values["density"] = each(share)
        # With equal magnitudes at a threshold, what is kept differs in number.
        values["rescale"] = flag() and (kind in CLEAR or method in RANDOM)
    if method.startswith("breadcrumbs"):
        values["gamma"] = each([0.0, 0.01, 0.1, 0.6])
    if method.startswith("della"):
        values["density"] = each([0.0, 1.0, 0.3, 0.5, 0.75])
        values["epsilon"] = each([0.0, 0.1, 0.2])
    return values


def _has_one_answer(case: Case) -> bool:
    """False where rounding decides between two rules, or is magnified without bound."""
    values, vectors = case.values, case.vectors
    electing = case.method in ("ties", "breadcrumbs_ties", "dare_ties", "della")
    dividing = values.get("normalize") and not electing
    if dividing and abs(sum(values["weight"])) < 0.25:
        return False
    if case.method == "sce" and 0 < values["density"] < 1:
        return _clear_variances(case)
    if case.method == "model_stock":
        change = oracles.model_stock(case.base, case.experts, **values) - case.base
        return bool(np.linalg.norm(change) <= 10 * max(np.linalg.norm(one) for one in vectors))
    if case.method == "slerp":
        return abs(abs(_cosines(case.base, vectors[0])[0]) - 0.9995) > 1e-4
    if case.method in ("nuslerp", "karcher"):
        flat = values.get("nuslerp_flatten", True) or vectors[0].ndim < 2
        axis = None if flat else 0 if values["nuslerp_row_wise"] else -1
        pairs = [(a, b) for i, a in enumerate(vectors) for b in vectors[:i]]
        return all(_cosines(a, b, axis).min() > -1 + 1e-3 for a, b in pairs)
    if case.method == "multislerp":
        units = [one / max(float(np.linalg.norm(one)), 1e-300) for one in vectors]
        mean = sum(w * one for w, one in zip(values["weight"], units, strict=True))
        return len(vectors) == 1 or float(np.linalg.norm(mean)) > 1e-2
    return True


def _clear_variances(case: Case) -> bool:
    """Whether the last variance kept and the first dropped differ by more than rounding."""
    variance = np.sort(np.var(np.stack(case.vectors), axis=0).ravel())[::-1]
    count = int(case.values["density"] * np.count_nonzero(variance))
    if len(case.experts) == 1 or count in (0, variance.size):
        return True
    return bool(variance[count] < variance[count - 1] * (1 - 1e-4))


def _cosines(one: Any, other: Any, axis: int | None = None) -> Array:
    """Of two tensors or of their vectors along an axis; 0 where one has no length."""
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    dots = np.sum(first * second, axis=axis)
    norms = np.sqrt(np.sum(first**2, axis=axis) * np.sum(second**2, axis=axis))
    return np.atleast_1d(dots / np.where(norms > 0, norms, 1))
