"""Combine: how much each model counts for each sample, by how well it predicts the response.

Measured in bits per byte, because a mean per token favors whoever cuts the text more finely.
min_ce takes the best model; avg_ce weights all of them. (FuseLLM, arXiv:2401.10491)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Rule = Literal["min_ce", "avg_ce"]
Unit = Literal["byte", "token"]


@dataclass(frozen=True)
class Evidence:
    """How a model predicted each sample; NaN in `nll` where it has no steps."""

    nll: npt.NDArray[np.float64]
    """[samples] summed negative log-likelihood, nats."""
    tokens: npt.NDArray[np.int64]
    """[samples] predicted tokens, eos among them."""
    num_bytes: npt.NDArray[np.int64]
    """[samples] bytes of text that these tokens cover."""


@dataclass(frozen=True)
class Combined:
    """The outcome per sample; models in the order given, the pivot first."""

    chosen: npt.NDArray[np.int64]
    """[samples] the model with the least cross-entropy; -1 when no model has the sample."""
    weights: npt.NDArray[np.float64]
    """[samples models] adding up to 1 (0 everywhere when no model has the sample)."""

    def counts(self, names: Sequence[str]) -> dict[str, int]:
        """How many samples each model won."""
        return {name: int((self.chosen == number).sum()) for number, name in enumerate(names)}


def cross_entropy(evidence: Evidence, unit: Unit) -> npt.NDArray[np.float64]:
    """[samples] bits per byte, or nats per token as in the papers; NaN without steps."""
    # A text of one token has only eos to predict: its nll counts for one byte.
    units = evidence.num_bytes * np.log(2) if unit == "byte" else evidence.tokens
    floor = np.log(2) if unit == "byte" else 1.0
    return np.divide(evidence.nll, np.maximum(units, floor), dtype=np.float64)


def combine(
    models: Sequence[Evidence],
    *,
    rule: Rule = "min_ce",
    ce: Unit = "byte",
) -> Combined:
    """Weights of the models for each sample, from their cross-entropies B.

    min_ce: 1 for the least B, ties to the first model. avg_ce: softmax(-B) over bits per byte;
    with ce="token" the papers' softmax(exp(-CE)), whose weights never differ by more than a factor
    of e.
    """
    scores = np.stack([cross_entropy(model, ce) for model in models], axis=1)
    absent = np.isnan(scores)
    scores = np.where(absent, np.inf, scores)
    nobody = absent.all(axis=1)
    best = np.where(nobody, -1, scores.argmin(axis=1))
    if rule == "min_ce":
        weights = (np.arange(len(models)) == best[:, None]).astype(np.float64)
        return Combined(best, weights)
    preference = np.exp(-scores) if ce == "token" else -scores
    preference = np.where(absent, -np.inf, preference)
    top = np.where(nobody, 0.0, preference.max(axis=1, initial=-np.inf))
    powers = np.exp(preference - top[:, None])
    return Combined(best, powers / np.maximum(powers.sum(axis=1, keepdims=True), 1e-300))
