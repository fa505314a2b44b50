"""Statistics files as methods want them: a mean per token, on one scale for all experts."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from smelt.checkpoint.layout import block_of
from smelt.checkpoint.statistics import Statistics
from smelt.core.errors import UserError
from smelt.merge.sources import Files, FileSource, Rows, Source, rows_and_columns

if TYPE_CHECKING:
    from smelt.merge.model import Model
    from smelt.merge.tensors import TensorPlan

PIECE = 1 << 18
"""Numbers that are squared and added up at a time, at least one row."""


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
    _lock: Lock = field(default_factory=Lock)

    def source(self, name: str) -> Source | None:
        """The statistics of one tensor; None when it has none. Raises UserError.

        None, too, for the Gram matrix of a head, which no method uses: it would be read anew with
        each block of the head.
        """
        known = self.statistics.description.tensors.get(name)
        if known is None or (self.statistics.kind == "gram" and block_of(name) == "head"):
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
        """Of all stored numbers, read in pieces, by the first thread that asks."""
        with self._lock:
            if self._rms is None:
                squares, count = 0.0, 0
                for name in self.statistics.names():
                    spec = self.statistics.stored[self.statistics.measured(name).stored_as]
                    source = FileSource(spec, self.files)
                    rows, columns = rows_and_columns(spec.shape)
                    step = max(1, PIECE // max(1, columns))
                    for start in range(0, rows, step):
                        piece = np.empty((min(step, rows - start), columns), dtype=np.float64)
                        source.rows(start, piece)
                        squares += float(np.square(piece, out=piece).sum())
                    count += spec.num_elements
                self._rms = math.sqrt(squares / max(1, count)) or 1.0
            return self._rms


def refuse_moved(
    tensors: "Iterable[TensorPlan]", models: "Mapping[str, Model]", where: str
) -> None:
    """Raise UserError when rows that move to another vocabulary have statistics by element.

    Importance is of a stored number: the rows of a Fisher file stay in the order of the model's own
    vocabulary, and a row that is put together from others has none. (A Gram matrix is of a layer's
    inputs, whatever its rows.)
    """
    for item in tensors:
        for model, name in item.experts if item.rows is not None else ():
            statistics = models[model].statistics
            if item.rows is None or statistics is None or statistics.kind != "fisher":
                continue
            own = models[model].spec(name).shape[0]
            if name in statistics.names() and not item.rows[model].unchanged(own):
                raise UserError(
                    f"{where}: {model}",
                    f"the tokenizer of the result moves the rows of '{name}', and its statistics "
                    "do not move with them", "the models' own tokenizer for fisher",
                    "take tokenizer_source out; or merge by a method without statistics",
                )  # fmt: skip
