"""Statistics files as methods want them: a mean per token, on one scale for all experts."""

import math
from dataclasses import dataclass, field

import numpy as np

from smelt.checkpoint.statistics import Statistics
from smelt.core.errors import UserError
from smelt.merge.sources import Files, FileSource, Rows, Source


@dataclass(frozen=True)
class ScaledSource:
    """Another source times a factor."""

    inner: Source
    factor: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def wide(self) -> bool:
        return self.inner.wide

    def rows(self, start: int, out: Rows) -> int:
        """Fill `out` with scaled rows."""
        bad = self.inner.rows(start, out)
        out *= out.dtype.type(self.factor)
        return bad


@dataclass
class Measured:
    """The statistics of one model, for the tensors of a merge.

    gram: a sum over tokens, divided by their number. fisher: divided by its root mean square over
    the whole model, without which the expert with the larger gradients would win everywhere.
    """

    statistics: Statistics
    files: Files
    _rms: float | None = field(default=None)

    def source(self, name: str) -> Source | None:
        """The statistics of one tensor; None when it has none. Raises UserError."""
        known = self.statistics.description.tensors.get(name)
        if known is None:
            return None
        stored = FileSource(self.statistics.stored[known.stored_as], self.files)
        if self.statistics.kind == "fisher":
            return ScaledSource(stored, 1.0 / self._root_mean_square())
        if known.input_axis != 1:
            raise UserError(
                self.statistics.folder, f"'{name}' is stored as inputs x outputs (Conv1D)",
                "a model of linear layers for regmean",
            )  # fmt: skip
        return ScaledSource(stored, 1.0 / max(1, known.tokens))

    def _root_mean_square(self) -> float:
        if self._rms is None:
            squares, count = 0.0, 0
            for name in self.statistics.names():
                array = self.statistics.array(name)
                squares += float(np.square(array, dtype=np.float64).sum())
                count += array.size
            self._rms = math.sqrt(squares / max(1, count)) or 1.0
        return self._rms
