"""How many NaN and infinities each model held: by shard, so that a merge may be interrupted."""

import json
from collections import Counter
from pathlib import Path

from smelt.checkpoint.writer import Writer
from smelt.core.run import write_atomic

_ENDING = ".nonfinite.json"
Counts = dict[str, int]
"""Model as the recipe names it -> number of values."""


class Tally:
    """Counts of the shards of a merge, beside each shard until the merge is done.

    A shard is only taken as finished with its counts: one without them is merged again, so that an
    interrupted merge ends with the same counts as any other.
    """

    def __init__(self, writer: Writer) -> None:
        self._folder = writer.folder
        self._names = writer.names
        self._shard_of = {
            entry.name: name
            for shard, name in zip(writer.shards, writer.names, strict=True)
            for entry in shard
        }
        for name in writer.names:
            if (writer.folder / name).is_file() and self._read(name) is None:
                (writer.folder / name).unlink()

    def keep(self, tensor: str, counts: Counts) -> None:
        """Write down the counts of the shard of this tensor; before the shard is ended."""
        write_atomic(self._path(self._shard_of[tensor]), json.dumps(counts) + "\n")

    def total(self) -> Counts:
        """The counts of all shards together, sorted by model."""
        found: Counter[str] = Counter()
        for name in self._names:
            found.update(self._read(name) or {})
        return dict(sorted(found.items()))

    def remove(self) -> None:
        """Remove the counts from the folder."""
        for name in self._names:
            self._path(name).unlink(missing_ok=True)

    def _path(self, shard: str) -> Path:
        return self._folder / (Path(shard).stem + _ENDING)

    def _read(self, shard: str) -> Counts | None:
        try:
            counts: Counts = json.loads(self._path(shard).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return counts
