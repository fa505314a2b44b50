"""A network that takes candidate tensors in place and scores them on fixed rows."""

import math
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core.errors import UserError
from smelt.data.document import Document
from smelt.models.load import context_length
from smelt.models.score import Scorer, encode_response


class Fitness:
    """Weighted mean over domains of a score in which more is better; rows are encoded once."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: TextTokenizer,
        rows: dict[str, list[Document]],
        weights: dict[str, float],
        measure: Literal["exact", "likelihood"],
    ) -> None:
        """rows: by domain; exact: share whose response is greedily written; likelihood: minus bits
        per byte of the responses. Raises UserError for a row beyond the model's context."""
        self.model, self.weights, self.measure = model, weights, measure
        self.scorers = {
            name: Scorer(
                [encode_response(tokenizer, row.prompt, row.text) for row in part],
                vocab=tokenizer.size,
            )
            for name, part in rows.items()
        }
        longest, limit = max(s.longest for s in self.scorers.values()), context_length(model)
        if longest > limit:
            raise UserError("fitness", f"a row of {longest} tokens", f"at most {limit}")
        # A tied head is the embedding under another name, so it is found in the state dict only.
        self.tensors = model.state_dict()

    def __call__(self, merged: dict[str, Tensor]) -> float:
        """Score the model that has these tensors. Raises UserError for tensors it does not have."""
        unknown = sorted(set(merged) - set(self.tensors))
        if unknown:
            raise UserError(unknown[0], "not a tensor of the model", "the base's tensors")
        with torch.no_grad():
            for name, tensor in merged.items():
                self.tensors[name].copy_(tensor)
        total = sum(self.weights.values())
        return sum(w / total * self._one(self.scorers[n]) for n, w in self.weights.items())

    def _one(self, scorer: Scorer) -> float:
        scored = scorer.score(self.model)
        if self.measure == "exact":
            return sum(row.exact for row in scored) / len(scored)
        bits = sum(row.nll for row in scored) / math.log(2)
        return -bits / sum(row.num_bytes for row in scored)
