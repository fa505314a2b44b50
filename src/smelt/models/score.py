"""Teacher-forced scores: how likely a text is, and whether greedy decoding would write it."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core import progress

# Bounds rows x width of a batch, and its logits (2 ** 27 numbers are 512 MB).
BATCH_TOKENS, BATCH_LOGITS = 8192, 1 << 27


@dataclass(frozen=True)
class Encoded:
    """Token ids, the index of the first one that is predicted, and the bytes these stand for."""

    ids: list[int]
    start: int
    num_bytes: int


@dataclass(frozen=True)
class Scored:
    """Sum of negative log-likelihood (nats) over the scored tokens, and whether all were argmax."""

    nll: float
    num_tokens: int
    num_bytes: int
    exact: bool


def encode_pair(tokenizer: TextTokenizer, prompt: str, text: str) -> tuple[list[int], int]:
    """Ids of a row and the index of its first target: prompt + response + end, or text + end, both
    after the begin-of-text token where the tokenizer has one (`lead`), which is no target."""
    head = [*tokenizer.lead, *(tokenizer.encode(prompt) if prompt else [])]
    return [*head, *tokenizer.encode(text[len(prompt) :]), tokenizer.eos_id], max(1, len(head))


def encode_response(tokenizer: TextTokenizer, prompt: str, text: str) -> Encoded:
    """A pair as generation sees it: the response and its end are predicted after the prompt."""
    ids, start = encode_pair(tokenizer, prompt, text)
    num_bytes = len(text[len(prompt) :].encode())
    return Encoded(ids, start, num_bytes)


class Scorer:
    """Rows padded once, scored for many candidate models (the loop of a search)."""

    def __init__(self, rows: list[Encoded], *, vocab: int) -> None:
        """vocab: the size of the vocabulary, which bounds the rows of a batch."""
        self.num_bytes = [row.num_bytes for row in rows]
        self.longest = max((len(row.ids) for row in rows), default=0)
        budget = min(BATCH_TOKENS, BATCH_LOGITS // vocab)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        self.batches: list[tuple[list[int], torch.Tensor, torch.Tensor]] = []
        part: list[int] = []
        for index in order:
            if part and (len(part) + 1) * len(rows[index].ids) > budget:
                self.batches.append(_collate(part, rows))
                part = []
            part.append(index)
        if part:
            self.batches.append(_collate(part, rows))

    @torch.inference_mode()
    def score(self, model: PreTrainedModel, label: str = "") -> list[Scored]:
        """One `Scored` a row, in the order given. Causal models need no mask for right padding."""
        found: dict[int, Scored] = {}
        for part, ids, targets in progress.track(self.batches, label, len(self.batches)):
            ids, targets = ids.to(model.device), targets[:, 1:].to(model.device)
            keep = targets != -100
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1][keep].float()
            wanted = targets[keep]
            nll = torch.nn.functional.cross_entropy(logits, wanted, reduction="none").double()
            hit = logits.argmax(-1) == wanted
            counts = keep.sum(1).tolist()
            pieces = zip(torch.split(nll, counts), torch.split(hit, counts), strict=True)
            for index, count, (losses, hits) in zip(part, counts, pieces, strict=True):
                exact = bool(hits.all())
                found[index] = Scored(float(losses.sum()), count, self.num_bytes[index], exact)
        return [found[index] for index in range(len(self.num_bytes))]


def _collate(part: list[int], rows: list[Encoded]) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    width = max(len(rows[index].ids) for index in part)
    ids = torch.zeros((len(part), width), dtype=torch.long)
    targets = torch.full((len(part), width), -100)
    for line, index in enumerate(part):
        row = rows[index]
        ids[line, : len(row.ids)] = torch.tensor(row.ids)
        targets[line, row.start : len(row.ids)] = torch.tensor(row.ids[row.start :])
    return part, ids, targets
