"""How likely continuations are: each prompt is read once, whatever the number of its options."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from smelt.models.backend import Likelihood
from smelt.models.prefix import Row, batches
from smelt.models.reader import Reader, Shared, spread
from smelt.models.score import BATCH_LOGITS

Ids = list[int]


@torch.inference_mode()
def likelihood(
    reader: Reader,
    pairs: list[tuple[Ids, Ids]],
    done: Callable[[list[int], list[Likelihood]], None],
    *,
    batch_size: int,
) -> None:
    """Score (prompt, continuation) pairs of tokens, each at least one; see `Backend.likelihood`.

    Pairs with one prompt are always scored together.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    for index, (prompt, _) in enumerate(pairs):
        places.setdefault(tuple(prompt), []).append(index)
    groups = list(places.values())
    rows = []
    for number, group in enumerate(groups):
        sizes = [len(pairs[index][1]) for index in group]
        copies = max(1, sum(size > 1 for size in sizes))
        rows.append(Row(number, pairs[group[0]][0], max(sizes) - 1, copies))
    memory = Shared(reader)
    cut = batches(
        rows, most_rows=batch_size, fits=reader.fits, share=reader.shares, pad=reader.plain
    )
    for part, shared in cut:
        asked = [groups[row.index] for row in part]
        tails = [[pairs[index][1] for index in group] for group in asked]
        if reader.plain:
            found = _score_batch(memory, [row.ids for row in part], shared, tails)
        else:
            found = [
                [_score_alone(reader, row.ids, end) for end in group]
                for row, group in zip(part, tails, strict=True)
            ]
        done(
            [index for group in asked for index in group], [one for group in found for one in group]
        )


def _score_batch(
    memory: Shared, rows: list[Ids], shared: int, ends: list[list[Ids]]
) -> list[list[Likelihood]]:
    """Scores of the continuations `ends` of each row: the first token of each from the prompts'
    last logits, the others from a second step, in which a row stands once for each longer one."""
    reader = memory.reader
    logits, cache, mask = memory.read(rows, shared)
    device, vocab = reader.device, logits.shape[-1]
    places = [(line, place) for line, group in enumerate(ends) for place in range(len(group))]
    lines = torch.tensor([line for line, _ in places], device=device)
    first = torch.tensor([ends[line][place][0] for line, place in places], device=device)
    nats = logits.log_softmax(-1)[lines, first].double().tolist()
    sums = dict(zip(places, nats, strict=True))
    greedy = dict(zip(places, (logits.argmax(-1)[lines] == first).tolist(), strict=True))
    longer = [pair for pair in places if len(ends[pair[0]][pair[1]]) > 1]
    width = max((len(ends[line][place]) for line, place in longer), default=1) - 1
    size = max(1, BATCH_LOGITS // (width * vocab)) if longer else 1
    for start in range(0, len(longer), size):
        part = longer[start : start + size]
        origin = [line for line, _ in part]
        tails = [ends[line][place] for line, place in part]
        ids = torch.zeros((len(tails), width), dtype=torch.long)
        for row, tail in enumerate(tails):
            ids[row, : len(tail) - 1] = torch.tensor(tail[:-1])
        starts = torch.tensor([[len(rows[line])] for line in origin], device=device)
        positions = (starts + torch.arange(width, device=device)).clamp(max=reader.last)
        # Padding stands on the right, where no token of its row looks.
        before = mask[torch.tensor(origin, device=device)]
        whole = torch.cat([before, mask.new_ones((len(tails), width))], dim=1)
        own = spread(cache, origin, keep=start + size < len(longer))
        step, _ = reader.step(ids.to(device), own, whole, positions, every=True)
        for row, (pair, tail) in enumerate(zip(part, tails, strict=True)):
            more, hits = _of(step[row, : len(tail) - 1], tail[1:])
            sums[pair] += more
            greedy[pair] = greedy[pair] and hits
    return [
        [
            Likelihood(min(sums[line, place], 0.0), len(end), greedy[line, place])
            for place, end in enumerate(group)
        ]
        for line, group in enumerate(ends)
    ]


def _of(logits: Float[Tensor, "tokens vocab"], wanted: Ids) -> tuple[float, bool]:
    """Sum of the log-probabilities of tokens, and whether each is the likeliest."""
    ids = torch.tensor(wanted, device=logits.device)
    nats = logits.log_softmax(-1).gather(1, ids[:, None]).double().sum()
    return float(nats), bool((logits.argmax(-1) == ids).all())


def _score_alone(reader: Reader, prompt: Ids, end: Ids) -> Likelihood:
    """One whole row without any padding, for networks whose state is more than keys and values."""
    ids = torch.tensor([[*prompt, *end[:-1]]], device=reader.device)
    positions = torch.arange(ids.shape[1], device=reader.device)[None]
    logits, _ = reader.step(ids, None, None, positions, every=True)
    nats, hits = _of(logits[0, len(prompt) - 1 :], end)
    return Likelihood(min(nats, 0.0), len(end), hits)
