"""A tensor of a merge as blocks of whole rows, so that memory does not grow with the model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from smelt.core.seed import seed_for
from smelt.merge import ops
from smelt.merge.sources import Source, rows_and_columns

BLOCK_ELEMENTS = 1 << 18
"""Numbers in a block, at least one row. It is part of what a result is: sums are added up block by
block, so that neither threads nor the size of shards change a bit."""

Array = ops.Array


@dataclass(frozen=True)
class Random:
    """Random numbers of one block, the same for any order, block size, thread, shard or device.

    Word i of a tensor is a function of the run's seed, the content of the expert, the name of the
    tensor and i (Philox4x32-10).
    """

    keys: tuple[int, ...]
    start: int
    like: Array

    def uniform(self, expert: int) -> Array:
        """Numbers in [0, 1) for one expert, multiples of 2^-24: (rows, columns)."""
        return ops.uniform(self.keys[expert], self.start, self.like[expert])


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a tensor: base (rows, columns), experts (num_experts, rows, columns)."""

    start: int
    base: Array | None
    experts: Array
    random: Random
    extra: list[Array | None]
    """Per expert its part of a statistics file (or the whole, if that has another shape)."""


@dataclass
class Blocks:
    """One tensor: its base and experts as sources. Iterating reads it once more from its start.

    whole: one block in the true shape. device: "cpu" gives numpy arrays, anything else torch
    tensors on that device. bad: how many NaN and infinities each source held, by the last pass.
    """

    name: str
    base: Source | None
    experts: list[Source]
    identities: list[str]
    """What tells the experts apart whatever their order: a hash of their content."""
    seed: int = 0
    whole: bool = False
    device: str = "cpu"
    extras: list[Source | None] = field(default_factory=list)
    wide: bool = False
    """Whether to count in float64 whatever the sources are."""
    block_elements: int = BLOCK_ELEMENTS
    bad: dict[int, int] = field(default_factory=dict)
    """By source: place among the experts, -1 for the base."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return (self.base or self.experts[0]).shape

    @property
    def dtype(self) -> type[Any]:
        """numpy type of the arithmetic: float64 if any source is, else float32."""
        wide = self.wide or any(one.wide for one in [*self.experts, self.base] if one)
        return np.float64 if wide else np.float32

    @property
    def rows_per_block(self) -> int:
        """Rows of every block but the last."""
        rows, columns = rows_and_columns(self.shape)
        return max(1, rows) if self.whole else max(1, self.block_elements // max(1, columns))

    def __iter__(self) -> Iterator[Block]:
        rows, columns = rows_and_columns(self.shape)
        if rows * columns == 0:
            return
        keys = _keys(self.seed, tuple(self.identities), self.name)
        self.bad.clear()
        size = min(rows, self.rows_per_block)
        # One buffer for all blocks: fresh memory would be mapped and cleared by the system anew.
        buffer = np.empty((len(self.experts) + 1, size, columns), dtype=self.dtype)
        for start in range(0, rows, size):
            count = min(size, rows - start)
            filled = buffer[:, :count]
            if count < size:
                filled = np.empty((len(self.experts) + 1, count, columns), dtype=self.dtype)
            if self.base is not None:
                self._fill(-1, self.base, start, filled[0])
            for place, source in enumerate(self.experts):
                self._fill(place, source, start, filled[place + 1])
            given = filled.reshape(-1, *self.shape) if self.whole else filled
            moved = ops.to_device(given, self.device)
            base = moved[0] if self.base is not None else None
            random = Random(keys, start * columns, moved[1:])
            yield Block(start, base, moved[1:], random, self._extra(start, count))

    def _extra(self, start: int, count: int) -> list[Array | None]:
        found: list[Array | None] = []
        for source in self.extras:
            if source is None:
                found.append(None)
                continue
            rows, columns = rows_and_columns(source.shape)
            same = source.shape == self.shape and not self.whole
            out = np.empty((count if same else rows, columns), dtype=self.dtype)
            source.rows(start if same else 0, out)
            found.append(ops.to_device(out if same else out.reshape(source.shape), self.device))
        return found

    def _fill(self, place: int, source: Source, start: int, out: Any) -> None:
        self.bad[place] = self.bad.get(place, 0) + source.rows(start, out)


@lru_cache(4096)
def _keys(seed: int, identities: tuple[str, ...], name: str) -> tuple[int, ...]:
    """One for each expert; a search asks for the same ones with every candidate."""
    return tuple(seed_for(seed, one, name) for one in identities)
