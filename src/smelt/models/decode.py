"""Writing in batches: rows leave as they end, and what they occupied in the cache with them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smelt.models.backend import Request, Written
from smelt.models.prefix import Row, batches
from smelt.models.prompts import Prompts
from smelt.models.reader import Reader, Shared, roomy, spread
from smelt.models.sample import draw, generator
from smelt.models.stops import Stops


@dataclass
class Answer:
    """A row that is being written. size: its tokens; ids: those of them that are text."""

    place: int
    request: Request
    stops: Stops
    source: torch.Generator | None
    size: int = 0
    ids: list[int] = field(default_factory=list)


@torch.inference_mode()
def write(
    reader: Reader,
    prompts: Prompts,
    ends: frozenset[int],
    encoded: list[list[int]],
    requests: list[Request],
    done: Callable[[list[int], list[Written]], None],
    *,
    batch_size: int,
) -> None:
    """Continue every prompt (`encoded`: its tokens); see `Backend.write`.

    ends: tokens that end any answer.
    """
    known: dict[tuple[str, ...], Stops] = {}
    for request in requests:
        known.setdefault(request.stop, Stops(prompts, ends, request.stop))
    rows = [
        Row(index, ids, request.max_new_tokens)
        for index, (ids, request) in enumerate(zip(encoded, requests, strict=True))
    ]
    memory = Shared(reader)
    cut = batches(
        rows, most_rows=batch_size, fits=reader.fits, share=reader.shares, pad=reader.plain
    )
    for part, shared in cut:
        answers = [
            Answer(
                place, requests[row.index], known[requests[row.index].stop],
                generator(requests[row.index].seed) if requests[row.index].temperature else None,
            )
            for place, row in enumerate(part)
        ]  # fmt: skip
        found = _write_batch(memory, prompts, [row.ids for row in part], shared, answers)
        done([row.index for row in part], found)


def _write_batch(
    memory: Shared, prompts: Prompts, rows: list[list[int]], shared: int, answers: list[Answer]
) -> list[Written]:
    found: dict[int, Written] = {}
    for answer in answers:
        if answer.request.max_new_tokens < 1:
            found[answer.place] = Written("", 0, False)
    left = [answer for answer in answers if answer.place not in found]
    if not left:
        return [found[answer.place] for answer in answers]
    reader = memory.reader
    logits, cache, mask = memory.read([rows[answer.place] for answer in left], shared)
    cache = roomy(cache)
    positions = torch.tensor([[len(rows[a.place])] for a in left], device=reader.device)
    while True:
        tokens = _choose(logits, left)
        keep = []
        for line, (answer, written) in enumerate(_ended(prompts, left, tokens.tolist())):
            if written is None:
                keep.append(line)
            else:
                found[answer.place] = written
        if not keep:
            return [found[answer.place] for answer in answers]
        if len(keep) < len(left):
            left = [left[line] for line in keep]
            chosen = torch.tensor(keep, device=reader.device)
            tokens, positions, mask = tokens[chosen], positions[chosen], mask[chosen]
            cache = spread(cache, keep)
        mask = torch.cat([mask, mask.new_ones((len(left), 1))], dim=1)
        step, cache = reader.step(tokens[:, None], cache, mask, positions)
        logits, positions = step[:, -1], positions + 1


def _choose(logits: Float[Tensor, "rows vocab"], left: list[Answer]) -> Int[Tensor, " rows"]:
    tokens = logits.argmax(-1)
    drawn = [line for line, answer in enumerate(left) if answer.source is not None]
    if drawn:
        asked = [left[line].request for line in drawn]
        chosen = draw(
            logits[drawn],
            torch.tensor([request.temperature for request in asked]),
            torch.tensor([request.top_p for request in asked]),
            [source for line in drawn if (source := left[line].source) is not None],
        )
        tokens[drawn] = chosen.to(tokens.device)
    return tokens


def _ended(
    prompts: Prompts, left: list[Answer], tokens: list[int]
) -> list[tuple[Answer, Written | None]]:
    """Every row with its text if this token ended it. Only where a stop text may just have been
    completed is the whole answer decoded: the text as a whole decides."""
    texts: dict[int, str] = {}
    for answer, token in zip(left, tokens, strict=True):
        if token not in answer.stops.ends:
            answer.size += 1
            if token not in prompts.special_ids:
                answer.ids.append(token)
    looked = [
        answer
        for answer, token in zip(left, tokens, strict=True)
        if answer.stops.looks and token not in answer.stops.ends
    ]
    tails = prompts.decode_batch([answer.stops.tail(answer.ids) for answer in looked])
    for answer, tail in zip(looked, tails, strict=True):
        if answer.stops.hit(tail):
            text = prompts.decode(answer.ids)
            if answer.stops.hit(text):
                texts[answer.place] = answer.stops.cut(text)
    rows: list[tuple[Answer, Written | None]] = []
    for answer, token in zip(left, tokens, strict=True):
        stopped = answer.place in texts
        ended = stopped or token in answer.stops.ends
        if not ended and answer.size < answer.request.max_new_tokens:
            rows.append((answer, None))
            continue
        text = texts[answer.place] if stopped else prompts.decode(answer.ids)
        rows.append((answer, Written(text, answer.size, ended)))
    return rows
