"""A source over the rows to fuse: how well it predicts each row, and where its steps anchor."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from smelt.core.errors import UserError
from smelt.fuse.alignment import Anchors, Places
from smelt.fuse.combine import Evidence
from smelt.fuse.pieces import Dropped, Table, piece_bytes
from smelt.fuse.store import LogitStore
from smelt.fuse.target import FusedTarget
from smelt.fuse.tokenized import Row, Tokenized, marks
from smelt.fuse.vocabulary import shared


@dataclass(frozen=True)
class Source:
    """A model whose distributions were captured over the rows (the pivot is one of them)."""

    name: str
    tokenizer: Tokenizer
    eos_id: int
    store: LogitStore
    lead: Sequence[int] = ()
    """What the tokenizer puts before a text: begin-of-text, or nothing."""

    def samples(self, rows: Sequence[Row]) -> npt.NDArray[np.int64]:
        """[rows] the store's sample of each row. Raises UserError for a row that is missing and
        for a store with another eos."""
        where = f"store of {self.name}"
        found = self.store.find(rows)
        if (found < 0).any():
            number = int(np.flatnonzero(found < 0)[0])
            raise UserError(where, f"row {number} is not in it", "all rows", "capture again")
        if self.store.meta["eos_id"] != self.eos_id:
            raise UserError(where, f"eos {self.store.meta['eos_id']}", f"eos {self.eos_id}")
        return found

    def evidence(self, samples: npt.NDArray[np.int64]) -> Evidence:
        """How the model predicted these samples."""
        store = self.store
        starts, stops = store.offsets[samples], store.offsets[samples + 1]
        tokens = stops - starts
        # fp64: in an fp32 running sum later samples would lose their digits.
        sums = np.concatenate([[0.0], np.cumsum(store.nll, dtype=np.float64)])
        some = tokens > 0
        nll = np.where(some, sums[stops] - sums[starts], np.nan)
        covered = np.zeros(len(samples), np.int64)
        ends = np.asarray(store.byte_end, np.int64)
        covered[some] = ends[stops[some] - 1] - ends[starts[some]]
        return Evidence(nll, tokens, covered)

    def reasons(self, samples: npt.NDArray[np.int64]) -> dict[str, int]:
        """How many of these samples were kept, and how many dropped for which reason."""
        names = self.store.meta["reasons"]
        return dict(sorted(Counter(names[code] for code in self.store.reason[samples]).items()))


@dataclass(frozen=True)
class Aligned:
    """A source's anchors in all rows, and its vocabulary in the pivot's ids."""

    store: LogitStore
    mapping: npt.NDArray[np.int32]
    """[source vocab] see `vocabulary.shared`."""
    offsets: npt.NDArray[np.int64]
    """[rows + 1] first anchor of each row."""
    student: npt.NDArray[np.int64]
    """[anchors] token index t of the student's step."""
    steps: npt.NDArray[np.int64]
    """[anchors] flat step in the store."""

    def target(self, row: int, weight: float) -> FusedTarget:
        """The source's distributions at its anchors of one row, in pivot ids, adding up to 1."""
        at = slice(self.offsets[row], self.offsets[row + 1])
        steps = self.steps[at]
        logp = np.asarray(self.store.logp[steps], np.float64)
        rest = np.asarray(self.store.rest[steps], np.float64)
        # Stored in 16 bits the masses add up to 1 to 3 digits only.
        total = np.exp(logp).sum(axis=1) + rest
        ids = self.mapping[self.store.ids[steps]].astype(np.int64)
        return FusedTarget(
            torch.from_numpy(self.student[at].copy()),
            torch.from_numpy(ids),
            torch.from_numpy((logp - np.log(total)[:, None]).astype(np.float32)),
            torch.from_numpy((rest / total).astype(np.float32)),
            torch.full((len(steps),), weight),
        )


def student_places(tokenized: Sequence[Tokenized | Dropped]) -> Places:
    """Where the student's response steps stand; rows without a place on bytes have none."""
    empty = np.empty(0, np.int64)
    return Places.of(
        [
            marks(row.byte_ends, np.array([0]), np.array([row.pending]))
            if isinstance(row, Tokenized)
            else empty
            for row in tokenized
        ]
    )


def align_source(
    source: Source,
    samples: npt.NDArray[np.int64],
    tokenized: Sequence[Tokenized | Dropped],
    *,
    align: Any,
    pivot_table: Table,
    pivot_eos: int,
) -> Aligned:
    """A source against the student's steps, all rows in one merge."""
    store, table = source.store, piece_bytes(source.tokenizer)
    if len(table) < store.meta["vocab"]:
        raise UserError(f"store of {source.name}", "ids beyond the tokenizer", "its own tokenizer")
    student = student_places(tokenized)
    counts = store.offsets[samples + 1] - store.offsets[samples]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    # Flat step in the store for each step of these rows, in the rows' order.
    flat = np.arange(offsets[-1]) + np.repeat(store.offsets[samples] - offsets[:-1], counts)
    some = counts > 0
    ends = np.asarray(store.byte_end)[flat]
    places = marks(ends.astype(np.int64), offsets[:-1][some], store.pending[samples][some])
    anchors: Anchors = align(student, Places(offsets, places))
    row_of = student.samples[anchors.pivot]
    firsts = [row.first if isinstance(row, Tokenized) else 0 for row in tokenized]
    per_row = np.bincount(row_of, minlength=len(tokenized))
    return Aligned(
        store,
        shared(pivot_table, table, pivot_eos=pivot_eos, source_eos=source.eos_id),
        np.concatenate([[0], np.cumsum(per_row)]).astype(np.int64),
        anchors.pivot - student.offsets[row_of] + np.array(firsts, np.int64)[row_of],
        flat[anchors.source],
    )
