"""A tensor under another vocabulary: its rows come from where a RowMap says."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.merge.sources import Rows, Source, rows_and_columns
from smelt.merge.vocab.rows import RowMap, mean_row, read_rows


@dataclass
class MovedSource:
    """One tensor by token of one model. source_of: model -> its tensor of the same role.

    A vector (the bias of a head) has one number per token; it is read as a whole.
    """

    row_map: RowMap
    source_of: Callable[[str], Source]
    _averaged: NDArray[Any] | None = None

    @cached_property
    def _own(self) -> Source:
        return self.source_of(self.row_map.model)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.row_map.size, *self._own.shape[1:])

    @property
    def wide(self) -> bool:
        return self._own.wide

    @property
    def _columns(self) -> int:
        return 1 if len(self.shape) == 1 else self.shape[-1]

    def rows(self, start: int, out: Rows) -> int:
        """Fill `out` with rows of the new vocabulary; gives how many values are NaN or infinite."""
        bad = 0

        def read(model: str, places: NDArray[np.int64]) -> Rows:
            nonlocal bad
            found = np.empty((len(places), self._columns), dtype=out.dtype)
            bad += self._gather(self.source_of(model), places, found)
            return found

        if len(self.shape) == 1:
            out[0] = read_rows(self.row_map, 0, self.row_map.size, 1, read, self._mean(read))[:, 0]
        else:
            stop = start + len(out)
            out[...] = read_rows(self.row_map, start, stop, self._columns, read, self._mean(read))
        return bad

    def _mean(self, read: Any) -> NDArray[Any] | None:
        """The row of a token that is none, from one pass over the tensor, the first time."""
        if self._averaged is None and self.row_map.averaged.size:
            self._averaged = mean_row(self.row_map, self._columns, read)
        return self._averaged

    def _gather(self, source: Source, places: NDArray[np.int64], out: Rows) -> int:
        """The rows at `places`, run by run of consecutive ones."""
        if len(self.shape) == 1:
            whole = np.empty(rows_and_columns(source.shape), dtype=out.dtype)
            bad = source.rows(0, whole)
            out[:, 0] = whole[0, places]
            return bad
        bad, begin = 0, 0
        for end in [*(np.flatnonzero(np.diff(places) != 1) + 1), len(places)]:
            if end > begin:
                bad += source.rows(int(places[begin]), out[begin:end])
            begin = int(end)
        return bad
