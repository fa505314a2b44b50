"""Targets: what each source expects at the student's steps, read from the stores through anchors.

The logits of step t predict token t + 1, and so does their target: a source's next-token
distribution after the same bytes. (FuseLLM's released code falls back to token t, one off.)
With min_ce the model that predicts a row best teaches it, as in FuseLLM; that may be the pivot
itself, whose own distribution then keeps the target model from forgetting it. Steps without an
anchor have no distribution: there the target model learns from the text alone. All is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.fuse.combine import Combined, Rule, Unit, combine
from smelt.fuse.pieces import Dropped, piece_bytes
from smelt.fuse.source import Aligned, Source, align_source
from smelt.fuse.target import FusedTarget, join
from smelt.fuse.tokenized import Row, Tokenized, tokenize


@dataclass(frozen=True)
class Targets:
    """Fused targets of all rows, gathered from the memory-mapped stores when asked for."""

    tokenized: list[Tokenized | Dropped]
    """The rows in the pivot's tokenization: what the target model is trained on."""
    combined: Combined
    """Weights per row; models in the order pivot, sources."""
    notes: dict[str, Any]
    """For run.json: "chosen" {model: rows}; "alignment" {"rows": {model: {reason: rows}},
    "steps": {model: {reason: steps}}, "student_steps": all of them}."""
    aligned: list[Aligned]
    taught: npt.NDArray[np.float64]
    """[rows models] weights of the models that give distributions."""

    def __len__(self) -> int:
        return len(self.tokenized)

    def of(self, row: int) -> FusedTarget:
        """The target of one row; `rows` are token indices t of its ids (`target.join` batches)."""
        weights = self.taught[row]
        parts = [
            model.target(row, float(weight))
            for model, weight in zip(self.aligned, weights, strict=True)
            if weight > 0
        ]
        both = join(parts, [0] * len(parts))
        # Not every model is anchored at every step; those that are share its weight.
        total = torch.bincount(both.rows, weights=both.weight)
        return replace(both, weight=(both.weight / total[both.rows]).float())


def build_targets(
    rows: Sequence[Row],
    pivot: Source,
    sources: Sequence[Source],
    *,
    rule: Rule = "min_ce",
    ce: Unit = "byte",
    alignment: str = "byte_anchors",
) -> Targets:
    """Fused targets in the pivot's tokenization; the pivot is one more source.

    With avg_ce a step has one entry per model that is anchored there, weights adding up to 1. The
    gradient of forward cross-entropy is linear in the target, so that is the gradient of their
    mixture, without guessing how much of one model's rest belongs to another's named tokens.
    Raises UserError when a store lacks a row or does not fit its tokenizer.
    """
    models = [pivot, *sources]
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise UserError("sources", f"names {names}", "a different name for each model")
    table = piece_bytes(pivot.tokenizer)
    tokenized = tokenize(rows, pivot.tokenizer, table, pivot.eos_id, pivot.lead)
    samples = [model.samples(rows) for model in models]
    paired = list(zip(models, samples, strict=True))
    evidence = [model.evidence(found) for model, found in paired]
    combined = combine(evidence, rule=rule, ce=ce)
    placed = np.array([isinstance(row, Tokenized) for row in tokenized], np.bool_)
    taught = np.where(placed[:, None], combined.weights, 0.0)
    align = registry.load("alignment", alignment)
    aligned = [
        align_source(
            model, found, tokenized, align=align, pivot_table=table, pivot_eos=pivot.eos_id
        )
        for model, found in paired
    ]
    lengths = np.array([row.num_steps if isinstance(row, Tokenized) else 0 for row in tokenized])
    steps: dict[str, dict[str, int]] = {}
    for number, name in enumerate(names):
        asked = taught[:, number] > 0
        anchors = int(np.diff(aligned[number].offsets)[asked].sum())
        steps[name] = {"anchors": anchors, "unaligned": int(lengths[asked].sum()) - anchors}
    steps[pivot.name]["no_model"] = int(lengths[combined.chosen < 0].sum())
    reasons = {model.name: model.reasons(found) for model, found in paired}
    counts = {"rows": reasons, "steps": steps, "student_steps": int(lengths.sum())}
    notes = {"chosen": combined.counts(names), "alignment": counts}
    return Targets(tokenized, combined, notes, aligned, taught)
