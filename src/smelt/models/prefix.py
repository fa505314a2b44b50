"""Rows of tokens as batches that share a beginning, which the network then reads once.

The order is a property of each row alone, and a batch is cut by looking at the rows in it and those
that follow, never at those before. So what is left of a broken-off run is cut as it would have
been: the last bits of a number depend on the rows beside it, and greedy decoding can turn on these.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Rows with this many equal first tokens belong together: longer than most heads of chat templates,
# shorter than any solved example.
ALIKE = 64
# Lengths within this factor may stand in one batch unless they share nothing.
STEP = 1.25
# So many alike rows are worth a batch of their own.
GROUP = 4
# Tokens read in one step, whatever the memory: bounds the activations.
READ_TOKENS = 16384


@dataclass(frozen=True)
class Row:
    """Tokens to read, and how the answer grows: `width` rows of up to `extra` more tokens."""

    index: int
    ids: list[int]
    extra: int
    width: int = 1


def common(first: list[int], second: list[int], most: int) -> int:
    """Number of equal first tokens of two rows, at most `most`."""
    most = min(most, len(first), len(second))
    if first[:most] == second[:most]:
        return most
    low, high = 0, most  # equal up to low, not up to high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if first[low:middle] == second[low:middle] else (low, middle)
    return low


def _bucket(length: int) -> int:
    size, bucket = 1.0, 0
    while size < length:
        size, bucket = size * STEP, bucket + 1
    return bucket


def ordered(rows: list[Row]) -> list[Row]:
    """Longest first, so that memory is short at once or never; alike rows beside one another."""

    def key(row: Row) -> tuple[int, list[int], int, list[int], int]:
        size = len(row.ids)
        return -_bucket(size), row.ids[:ALIKE], -size, row.ids, row.index

    return sorted(rows, key=key)


def _alike_ahead(rows: list[Row]) -> list[int]:
    """For each row: how many rows from it on begin with the same ALIKE tokens; 0: it is shorter."""
    counts = [0] * (len(rows) + 1)
    for place in range(len(rows) - 1, -1, -1):
        head = rows[place].ids[:ALIKE]
        same = place + 1 < len(rows) and rows[place + 1].ids[:ALIKE] == head
        counts[place] = (counts[place + 1] if same else 0) + 1 if len(head) == ALIKE else 0
    return counts[:-1]


def batches(
    rows: list[Row],
    *,
    most_rows: int,
    fits: Callable[[int, int], bool],
    share: Callable[[int], bool],
    pad: bool,
) -> Iterator[tuple[list[Row], int]]:
    """Batches of rows in their order, each with the number of first tokens that its rows share and
    that are read once (at least one token of each row is left to read on its own).

    fits: (rows, tokens of the longest with its answer) -> whether memory holds them; share: may
    rows of at most so many tokens share a beginning; pad: may rows of different lengths stand
    together.
    """
    rows = ordered(rows)
    ahead = _alike_ahead(rows)
    part: list[Row] = []
    wide, longest, total, shared = 0, 0, 0, 0
    for row, group in zip(rows, ahead, strict=True):
        if part:
            now = common(part[0].ids, row.ids, shared if len(part) > 1 else len(row.ids))
            most = max(total, len(row.ids) + row.extra)
            shareable = share(most)
            now = min(now, len(row.ids) - 1, len(part[0].ids) - 1) if shareable else 0
            length = max(longest, len(row.ids))
            room = fits(wide + row.width, most)
            read = (len(part) + 1) * (length - now) <= READ_TOKENS
            # Rows of another beginning would cost these what they share, or these cost them.
            loss = shared >= ALIKE and len(part) * (shared - now) > length
            apart = now < ALIKE and (loss or (shareable and group >= GROUP))
            if (
                len(part) >= most_rows
                or not room
                or not read
                or apart
                or (not pad and len(row.ids) != longest)
            ):
                yield part, shared
                part, wide, longest, total, shared = [], 0, 0, 0, 0
            else:
                shared = now
        if not part:
            shared = 0
        part.append(row)
        wide, longest = wide + row.width, max(longest, len(row.ids))
        total = max(total, len(row.ids) + row.extra)
    if part:
        yield part, shared
