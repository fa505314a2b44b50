"""The model of a family that looks like the base of the others, and the merges among them."""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smelt.merge.kinship.products import cosines_of, difference_products, weight_products

Confidence = Literal["high", "medium", "low", "none"]
LEVELS: tuple[Confidence, ...] = ("low", "medium", "high")
ORTHOGONAL = 0.35
"""Mean cosine of task vectors up to which a model can be the base of the others. Relative to one
of three equal siblings it is 0.5; fine-tunes that learn alike reach 0.25 from their true base."""
_CLEAR = 0.27
_NOTHING = 1e-12  # of the squared norm: the same weights
_EXACT = 0.02  # of the squared distance to the nearest model: a sum of others, up to rounding


def find_base(
    group: list[int], names: list[str], scaled: NDArray[Any]
) -> tuple[str | None, Confidence, list[str]]:
    """The model that the others look to be fine-tuned from, after twins and merges are set aside.

    Seen from the base, task vectors of independent fine-tunes are nearly orthogonal; seen from one
    of the fine-tunes, all others lie in the direction of the base.
    """
    left, evidence = _without_twins(group, names, scaled)
    distinct = len(left)
    while len(left) >= 3 and (found := _merge_among(left, names, scaled)) is not None:
        left.remove(found[0])
        evidence.append(found[1])
    if len(left) == 1:
        return None, "none", evidence
    if len(left) == 2:
        why = "which of two models came first cannot be told from their distance"
        return None, "none", [*evidence, why]
    spread = {one: _mean_cosine(scaled, left, one) for one in left}
    sums = {
        one: sum(
            math.sqrt(max(0.0, gap)) for gap in np.diag(difference_products(scaled, one))[left]
        )
        for one in left
    }
    best, second = sorted(left, key=lambda one: abs(spread[one]))[:2]
    nearest = min(left, key=lambda one: sums[one])
    margin = abs(spread[second]) - abs(spread[best])
    evidence.append(
        f"seen from {names[best]}, the differences of the others have mean cosine"
        f" {spread[best]:+.2f}; seen from {names[second]}, {spread[second]:+.2f}"
        " (independent fine-tunes: near 0 from their base, near +0.5 from each other)"
    )
    if best != nearest or abs(spread[best]) > ORTHOGONAL or margin < 0.05:
        evidence.append(
            f"the smallest sum of distances is that of {names[nearest]}: no model stands out"
            " as the base, which may not be among them"
        )
        return None, "none", evidence
    evidence.append(f"{names[best]} also has the smallest sum of distances to the others")
    certain = len(left) == distinct > 3 and abs(spread[best]) <= _CLEAR
    level = (margin >= 0.1) + (margin >= 0.25 and certain)
    if level < 2:
        evidence.append(
            "not certain: the middle of a chain of trainings looks the same,"
            " and so does a strong merge that is no plain sum"
        )
    return names[best], LEVELS[level], evidence


def _without_twins(
    group: list[int], names: list[str], scaled: NDArray[Any]
) -> tuple[list[int], list[str]]:
    """The models with weights of their own, and a sentence for each that repeats another."""
    size = float(np.mean(np.diag(weight_products(scaled))))
    left: list[int] = []
    evidence = []
    for one in group:
        gaps = np.diag(difference_products(scaled, one))
        twin = next((other for other in left if gaps[other] <= _NOTHING * size), None)
        if twin is None:
            left.append(one)
        else:
            evidence.append(f"{names[one]} has the weights of {names[twin]}")
    return left, evidence


def _merge_among(left: list[int], names: list[str], scaled: NDArray[Any]) -> tuple[int, str] | None:
    """A model that is a merge of the others, and a sentence; None if none looks like one.

    A linear merge is a sum of the others with weights that add up to 1. Then each of them is such
    a sum too, but the merge is the one with the smallest weights.
    """
    sums = {one: _as_sum(scaled, left, one) for one in left}
    exact = [one for one in left if sums[one][0] <= _EXACT]
    weights = {one: float(np.abs(sums[one][1]).sum()) for one in exact}
    if exact and (least := min(exact, key=lambda one: weights[one])) is not None:
        rivals = [one for one in exact if one != least and weights[one] < 1.1 * weights[least]]
        if not rivals:
            others = [one for one in left if one != least]
            terms = [
                f"{weight:+.2f} {names[other]}"
                for weight, other in zip(sums[least][1], others, strict=True)
                if abs(weight) >= 0.005
            ]
            return least, f"{names[least]} is a merge: {' '.join(terms)}"
    spread = {one: _mean_cosine(scaled, left, one) for one in left}
    between = min(left, key=lambda one: spread[one])
    # Of the average of n models the cosines have a mean of -1/(n - 1).
    if spread[between] > -0.5 / (len(left) - 2):
        return None
    return between, (
        f"{names[between]} lies between the others (mean cosine {spread[between]:+.2f} of their"
        " differences from it), as a merge of them or a checkpoint on the way does"
    )


def _as_sum(scaled: NDArray[Any], left: list[int], one: int) -> tuple[float, NDArray[Any]]:
    """The best sum of the other models for one, with weights that add up to 1.

    Gives what is left of the squared distance to the nearest model, and the weights.
    """
    others = [other for other in left if other != one]
    gaps = difference_products(scaled, one)[np.ix_(others, others)]
    # A trace of the identity keeps a singular table solvable.
    damped = gaps + 1e-9 * np.trace(gaps) * np.eye(len(others))
    weights = np.linalg.solve(damped, np.ones(len(others)))
    weights /= weights.sum()
    return float(weights @ gaps @ weights / np.diag(gaps).min()), weights


def _mean_cosine(scaled: NDArray[Any], models: list[int], origin: int) -> float:
    others = [one for one in models if one != origin]
    cosines = cosines_of(difference_products(scaled, origin)[np.ix_(others, others)])
    return float(np.mean(cosines[np.tril_indices(len(others), -1)]))
