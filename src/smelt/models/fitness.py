"""A network that takes candidate tensors in place, and scores it on fixed rows, item by item."""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core.errors import UserError
from smelt.data.document import Document
from smelt.models.load import context_length
from smelt.models.score import Scored, Scorer, encode_response

# Item samples that a race comes back to for every candidate: their rows stay padded.
KEPT_SAMPLES = 16


class Network:
    """A model whose tensors are overwritten by those of one candidate after another."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        # A tied head is the embedding under another name, so it is found in the state dict only.
        self._tensors = model.state_dict()

    def take(self, merged: dict[str, Tensor]) -> None:
        """Become the candidate. Raises UserError for tensors that the model does not have."""
        unknown = sorted(set(merged) - set(self._tensors))
        if unknown:
            raise UserError(unknown[0], "not a tensor of the model", "the base's tensors")
        with torch.no_grad():
            for name, tensor in merged.items():
                self._tensors[name].copy_(tensor)


def row_weights(
    rows: dict[str, list[Document]], weights: dict[str, float], by_bytes: bool
) -> list[float]:
    """Share of each row in the whole, domain after domain, their sum 1.

    by_bytes: bits per byte of a domain count every byte alike, so long responses weigh more.
    """
    whole = sum(weights[name] for name in rows)
    found = []
    for name, part in rows.items():
        sizes = [len(row.text[len(row.prompt) :].encode()) if by_bytes else 1 for row in part]
        found += [weights[name] / whole * size / sum(sizes) for size in sizes]
    return found


class RowFitness:
    """Scores of a model on instruction-response rows; more is better.

    names: the domain of each item, domain after domain; weights: its share of the whole, so that
    the weighted sum is the weighted mean over domains.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: TextTokenizer,
        rows: dict[str, list[Document]],
        weights: dict[str, float],
        measure: Literal["exact", "likelihood"],
    ) -> None:
        """rows: by domain; exact: 1 where greedy decoding would write the whole response, else 0;
        likelihood: minus the bits per byte of the response. Raises UserError for a row beyond the
        model's context."""
        self.model, self.measure = model, measure
        self._vocab = tokenizer.size
        self._rows = [
            encode_response(tokenizer, row.prompt, row.text)
            for part in rows.values()
            for row in part
        ]
        self.names = [name for name, part in rows.items() for _ in part]
        longest, limit = max(len(row.ids) for row in self._rows), context_length(model)
        if longest > limit:
            raise UserError("fitness", f"a row of {longest} tokens", f"at most {limit}")
        self.weights = row_weights(rows, weights, measure == "likelihood")
        self._scorer = lru_cache(KEPT_SAMPLES)(self._collate)

    def _collate(self, items: tuple[int, ...]) -> Scorer:
        return Scorer([self._rows[item] for item in items], vocab=self._vocab)

    def __call__(self, items: list[int]) -> tuple[list[float], list[float]]:
        """The value of each of these items for the model as it is now; lengths: nothing is written,
        so 0."""
        values = [self._value(one) for one in self._scorer(tuple(items)).score(self.model)]
        return values, [0.0] * len(items)

    def _value(self, scored: Scored) -> float:
        if self.measure == "exact":
            return float(scored.exact)
        return -scored.nll / math.log(2) / scored.num_bytes
