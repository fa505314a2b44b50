"""Where the rows of a tensor come from: a file, an array in memory, or another source, changed.

Every tensor is seen as rows of `columns` numbers: the last dimension is a row, and a tensor of one
dimension is one row. A source gives any run of rows as floats, and keeps nothing.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, local
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from smelt.checkpoint.reader import DTYPES, TensorSpec
from smelt.core.errors import UserError
from smelt.merge import compiled

_ADVISE = getattr(os, "posix_fadvise", None)  # macOS has none

Rows = NDArray[Any]
"""(rows, columns), float32 or float64."""


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor's shape as rows and columns.

    >>> rows_and_columns(()), rows_and_columns((5,)), rows_and_columns((2, 3, 4))
    ((1, 1), (1, 5), (6, 4))
    """
    columns = shape[-1] if shape else 1
    return math.prod(shape[:-1]), columns


@runtime_checkable
class Source(Protocol):
    """One tensor of one model. `wide`: its values need float64."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def wide(self) -> bool: ...

    def rows(self, start: int, out: Rows) -> int:
        """Fill `out` with the rows from `start` on; gives how many values are NaN or infinite."""


class _Scratch(local):
    """A buffer for each thread."""

    buffer: NDArray[Any] = np.empty(0, dtype=np.uint8)


class Files:
    """Open files by path, so that a merge opens each once. `close` when done."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}
        self._lock = Lock()
        self._scratch = _Scratch()

    def number(self, path: Path) -> int:
        """The descriptor of a file."""
        with self._lock:
            if path not in self._open:
                self._open[path] = os.open(path, os.O_RDONLY)
            return self._open[path]

    def read(self, path: Path, start: int, size: int) -> NDArray[Any]:
        """Bytes of a file in a buffer that this thread's next call overwrites."""
        if self._scratch.buffer.size < size:
            self._scratch.buffer = np.empty(size, dtype=np.uint8)
        data: NDArray[Any] = self._scratch.buffer[:size]
        done = 0
        while done < size:
            count = os.preadv(self.number(path), [memoryview(data.data)[done:]], start + done)
            if count == 0:
                raise UserError(path, f"ends at byte {start + done}", "an unchanged file")
            done += count
        return data

    def announce(self, path: Path, start: int, size: int) -> None:
        """Tell the system that these bytes will be read soon, so that it reads ahead."""
        if _ADVISE is not None:
            _ADVISE(self.number(path), start, size, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1])


@dataclass(frozen=True)
class FileSource:
    """A tensor in a safetensors file."""

    spec: TensorSpec
    files: Files

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def wide(self) -> bool:
        return self.spec.dtype == "F64"

    def rows(self, start: int, out: Rows) -> int:
        """Fill `out` with rows of the file."""
        kind = DTYPES[self.spec.dtype]
        first = self.spec.start + start * out.shape[1] * kind.itemsize
        data = self.files.read(self.spec.file, first, out.size * kind.itemsize)
        return load(data.view(kind).reshape(out.shape), out)


@dataclass(frozen=True)
class ArraySource:
    """A tensor in memory."""

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def wide(self) -> bool:
        return self.array.dtype == np.float64

    def rows(self, start: int, out: Rows) -> int:
        """Fill `out` with rows of the array."""
        flat = self.array.reshape(rows_and_columns(self.shape))
        return load(flat[start : start + out.shape[0]], out)


@dataclass(frozen=True)
class HeldSource(ArraySource):
    """A tensor in memory that is read again and again; bad: how many NaN and infinities it holds,
    counted once."""

    bad: int

    def rows(self, start: int, out: Rows) -> int:
        """Fill `out` with rows of the array; all that are bad count with the first ones."""
        flat = self.array.reshape(rows_and_columns(self.shape))
        out[...] = flat[start : start + out.shape[0]]
        return 0 if start else self.bad


def load(values: NDArray[Any], out: Rows) -> int:
    """Copy values of any float type to float32 or float64; how many are NaN or infinite."""
    if values.dtype == DTYPES["BF16"] and out.dtype == np.float32:
        words = np.ascontiguousarray(values).view(np.uint16).reshape(-1)
        return int(compiled.load_bfloat16(words, out.reshape(-1)))
    out[...] = values
    return int(out.size - np.count_nonzero(np.isfinite(out)))


def store(values: Rows, dtype: str) -> tuple[NDArray[Any], int]:
    """Round to the type of a safetensors header; the array, and how many are NaN or infinite."""
    if dtype == "BF16" and values.dtype == np.float64:
        values = _to_odd(values)
    if dtype == "BF16":
        words = np.empty(values.size, dtype=np.uint16)
        bad = int(compiled.store_bfloat16(np.ascontiguousarray(values).reshape(-1), words))
        return words.view(DTYPES["BF16"]).reshape(values.shape), bad
    with np.errstate(over="ignore"):
        rounded = values.astype(DTYPES[dtype], copy=False)
    return rounded, int(rounded.size - np.count_nonzero(np.isfinite(rounded)))


def _to_odd(values: Rows) -> Rows:
    """float64 as float32 that rounds on to fewer digits as the float64 itself would.

    Rounding twice to the nearest may end at the wrong neighbour: a value just above the middle of
    two bfloat16 falls on it, then to the even one. So what is inexact becomes the neighbour whose
    last bit is 1, which is no middle of shorter numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        near = values.astype(np.float32)
        back = near.astype(np.float64)
    bits = near.view(np.uint32)
    bits -= np.abs(back) > np.abs(values)  # towards zero: sign and magnitude are apart in floats
    bits |= back != values
    return near
