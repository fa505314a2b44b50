"""Write a checkpoint tensor by tensor, in shards, with the same bytes every time."""

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch

from smelt.checkpoint.reader import DTYPES, INDEX, SINGLE
from smelt.core.errors import UserError

MAX_SHARD_BYTES = 5_000_000_000
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Writer:
    """Writes the given entries, one `write` each in the order of `entries`, with bounded memory.

    A shard gets its final name when it is complete, so a killed run leaves no half shard under a
    final name; with `resume=True` complete shards are kept and `missing()` lists what is left.
    Without it a folder that holds weights is refused. The same tensors give the same bytes.
    """

    def __init__(
        self,
        folder: Path,
        entries: list[Entry],
        *,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        resume: bool = False,
    ) -> None:
        self.folder = folder
        # Wide types first, as the format's own writer does it, so that every tensor is aligned.
        ordered = sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.name))
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
        self._stream: BinaryIO | None = None
        self._shard = 0
        self._left: list[Entry] = []

    def missing(self) -> list[str]:
        """Names of the tensors to write, in order; those of complete shards are left out."""
        return [
            entry.name
            for shard, name in zip(self.shards, self.names, strict=True)
            if not (self.folder / name).is_file()
            for entry in shard
        ]

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Append the next tensor; name, shape and dtype must be those of its entry."""
        if self._stream is None:
            self._begin()
        assert self._stream is not None
        entry = self._left.pop(0)
        assert (entry.name, entry.shape, entry.dtype) == (name, tuple(tensor.shape), tensor.dtype)
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self._stream.write(memoryview(data.numpy().data))
        if not self._left:
            self._end()

    def _begin(self) -> None:
        while (self.folder / self.names[self._shard]).is_file():
            self._shard += 1
        self._left = list(self.shards[self._shard])
        path = self.folder / (self.names[self._shard] + ".unfinished")
        self._stream = path.open("wb")
        self._stream.write(_header(self._left))

    def _end(self) -> None:
        assert self._stream is not None
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._stream = None
        final = self.folder / self.names[self._shard]
        path = final.with_name(final.name + ".unfinished")
        path.chmod(0o644)
        path.rename(final)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            self._stream.close()
        if kind is None:
            assert not self.missing(), f"not written: {self.missing()[:3]}"
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
    for entry in entries:
        if shard and sum(item.num_bytes for item in shard) + entry.num_bytes > max_bytes:
            yield shard
            shard = []
        shard.append(entry)
    yield shard


def _header(entries: list[Entry]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for entry in entries:
        end = position + entry.num_bytes
        header[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
