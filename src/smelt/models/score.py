"""Teacher-forced scores: the likelihood of given text, and whether greedy decoding would write it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core import progress


@dataclass(frozen=True)
class Scored:
    """Sum of negative log-likelihood (nats) over the scored tokens, and whether all were argmax."""

    nll: float
    num_tokens: int
    num_bytes: int
    exact: bool


def encode_pair(tokenizer: TextTokenizer, prompt: str, text: str) -> tuple[list[int], int]:
    """Ids of a row and the index of its first target: prompt + response + end, or text + end."""
    if not prompt:
        return [*tokenizer.encode(text), tokenizer.eos_id], 1
    head = tokenizer.encode(prompt)
    return [*head, *tokenizer.encode(text[len(prompt) :]), tokenizer.eos_id], max(1, len(head))


class Scorer:
    """Rows encoded and padded once, scored for many candidate models (the loop of a search)."""

    def __init__(
        self, tokenizer: TextTokenizer, rows: list[tuple[str, str]], batch_tokens: int = 8192
    ) -> None:
        """rows: (prompt, whole text). batch_tokens bounds rows x width of a batch."""
        encoded = [encode_pair(tokenizer, prompt, text) for prompt, text in rows]
        self.num_bytes = [len(text[len(prompt) :].encode()) for prompt, text in rows]
        order = sorted(range(len(rows)), key=lambda index: len(encoded[index][0]))
        self.batches: list[tuple[list[int], torch.Tensor, torch.Tensor]] = []
        part: list[int] = []
        for index in order:
            width = len(encoded[index][0])
            if part and (len(part) + 1) * width > batch_tokens:
                self.batches.append(self._collate(part, encoded))
                part = []
            part.append(index)
        if part:
            self.batches.append(self._collate(part, encoded))
        self.size = len(rows)

    @staticmethod
    def _collate(
        part: list[int], encoded: list[tuple[list[int], int]]
    ) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        width = max(len(encoded[index][0]) for index in part)
        ids = torch.zeros((len(part), width), dtype=torch.long)
        targets = torch.full((len(part), width), -100)
        for row, index in enumerate(part):
            tokens, start = encoded[index]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            targets[row, start : len(tokens)] = torch.tensor(tokens[start:])
        return part, ids, targets

    @torch.inference_mode()
    def score(self, model: PreTrainedModel, label: str = "") -> list[Scored]:
        """One `Scored` for each row, in the order given. Right padding needs no mask: it is causal."""
        found: list[Scored | None] = [None] * self.size
        batches = progress.track(self.batches, label, len(self.batches)) if label else self.batches
        for part, ids, targets in batches:
            ids, targets = ids.to(model.device), targets[:, 1:].to(model.device)
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            keep = targets != -100
            nll = F.cross_entropy(logits[keep], targets[keep], reduction="none")
            hit = logits[keep].argmax(-1) == targets[keep]
            counts = keep.sum(1).tolist()
            sums = [float(piece.double().sum()) for piece in nll.split(counts)]
            exact = [bool(piece.all()) for piece in hit.split(counts)]
            for row, index in enumerate(part):
                found[index] = Scored(sums[row], counts[row], self.num_bytes[index], exact[row])
        return [scored for scored in found if scored is not None]
