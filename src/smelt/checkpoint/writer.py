"""Write a checkpoint in shards, its tensors in any order, with the same bytes every time."""

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.checkpoint.reader import DTYPES, INDEX, SINGLE
from smelt.core.errors import UserError

MAX_SHARD_BYTES = 5_000_000_000
_ALLOCATE = getattr(os, "posix_fallocate", None)  # macOS has none


@dataclass(frozen=True)
class Entry:
    """A tensor to be written. `dtype` is the safetensors name, e.g. "BF16"."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class Writer:
    """Writes the given entries at their places, shard by shard, with no buffer of its own.

    `for shard in writer.missing(): for entry in shard: writer.place(...)`, then `writer.end()`: the
    parts of a shard may come in any order and from any thread. A shard gets its final name at
    `end`, so a killed run leaves no half shard under a final name; with `resume=True` complete
    shards are kept. Without it a folder that holds weights is refused.
    """

    def __init__(
        self,
        folder: Path,
        entries: list[Entry],
        *,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        metadata: dict[str, str] | None = None,
        resume: bool = False,
    ) -> None:
        self.folder = folder
        self.metadata = {"format": "pt", **(metadata or {})}
        # Wide types first, as the format's own writer does it, so that every tensor is aligned.
        ordered = sorted(entries, key=lambda one: (-DTYPES[one.dtype].itemsize, one.name))
        self.shards = list(_shards(ordered, max_shard_bytes))
        count = len(self.shards)
        self.names = (
            [SINGLE]
            if count == 1
            else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
        )
        folder.mkdir(parents=True, exist_ok=True)
        present = sorted(path.name for path in folder.glob("*.safetensors*"))
        if present and not resume:
            raise UserError(folder, f"holds weights already ({present[0]})", "an empty folder")
        for name in present:
            if name not in self.names:
                (folder / name).unlink()
        self._file: int | None = None
        self._shard = 0
        self._starts: dict[str, int] = {}

    def missing(self) -> Iterator[list[Entry]]:
        """The entries of each shard that is not there yet; each is opened, and ended by `end`."""
        for number, shard in enumerate(self.shards):
            if not (self.folder / self.names[number]).is_file():
                self._begin(number)
                yield shard

    def place(self, name: str, offset: int, data: NDArray[Any]) -> None:
        """Put bytes of a tensor of the open shard at an offset within the tensor."""
        assert self._file is not None
        view = memoryview(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
        position = self._starts[name] + offset
        while view:
            written = os.pwrite(self._file, view, position)
            view, position = view[written:], position + written

    def write(self, entry: Entry, array: NDArray[Any]) -> None:
        """Put a whole tensor, whose shape and dtype must be those of its entry."""
        assert (entry.shape, DTYPES[entry.dtype]) == (array.shape, array.dtype), entry
        self.place(entry.name, 0, array)

    def _begin(self, number: int) -> None:
        assert self._file is None, "the shard before was not ended"
        self._shard = number
        header, starts, size = _header(self.shards[number], self.metadata)
        path = self.folder / (self.names[number] + ".unfinished")
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._starts = starts
        os.write(self._file, header)
        # The space now: a disk that is too small says so before the work.
        if _ALLOCATE is not None:
            _ALLOCATE(self._file, 0, size)
        else:
            os.truncate(self._file, size)

    def end(self) -> None:
        """Finish the open shard: on disk as a whole, under its final name."""
        assert self._file is not None
        os.fsync(self._file)
        self._close()
        final = self.folder / self.names[self._shard]
        path = final.with_name(final.name + ".unfinished")
        path.chmod(0o644)
        path.rename(final)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        if kind is None:
            lacking = [name for name in self.names if not (self.folder / name).is_file()]
            assert not lacking, f"not written: {lacking[:3]}"
            if len(self.shards) > 1:
                self._write_index()

    def _write_index(self) -> None:
        placed = zip(self.shards, self.names, strict=True)
        weight_map = {entry.name: name for shard, name in placed for entry in shard}
        total = sum(entry.num_bytes for shard in self.shards for entry in shard)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        path = self.folder / INDEX
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        path.chmod(0o644)


def _shards(entries: list[Entry], max_bytes: int) -> Iterator[list[Entry]]:
    """Consecutive entries of at most `max_bytes` together (a larger tensor stands alone)."""
    shard: list[Entry] = []
    size = 0
    for entry in entries:
        if shard and size + entry.num_bytes > max_bytes:
            yield shard
            shard, size = [], 0
        shard.append(entry)
        size += entry.num_bytes
    yield shard


def _header(entries: list[Entry], metadata: dict[str, str]) -> tuple[bytes, dict[str, int], int]:
    """The header, the first byte of each tensor in the file, and the size of the file."""
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    begins = {}
    for entry in entries:
        begins[entry.name] = position
        end = position + entry.num_bytes
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    places = {name: first + begin for name, begin in begins.items()}
    return struct.pack("<Q", len(text)) + text, places, first + position


def write_tensors(folder: Path, tensors: dict[str, NDArray[Any]], **options: Any) -> None:
    """Write arrays in memory as the weights of a checkpoint folder; options of `Writer`."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    entries = [Entry(name, one.shape, names[one.dtype]) for name, one in tensors.items()]
    with Writer(folder, entries, **options) as writer:
        for shard in writer.missing():
            for entry in shard:
                writer.write(entry, tensors[entry.name])
            writer.end()
