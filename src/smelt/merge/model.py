"""A model of a merge: a checkpoint, with an adapter over it and statistics beside it if it has any.

Its tensors can be asked for by name as those of a checkpoint; an adapter is applied row by row when
they are read, so that no adapted copy is ever written.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.checkpoint import peft
from smelt.checkpoint.adapter import Adapter
from smelt.checkpoint.reader import DTYPES, Checkpoint, TensorSpec
from smelt.checkpoint.reference import ModelReference, parse_model_reference
from smelt.checkpoint.statistics import Statistics, weights_sha256
from smelt.core import digest
from smelt.core.errors import UserError
from smelt.merge.sources import Files, FileSource, Rows, Source


@dataclass(frozen=True)
class Model:
    """An opened model."""

    reference: ModelReference
    checkpoint: Checkpoint
    adapter: Adapter | None = None
    statistics: Statistics | None = None

    @classmethod
    def open(cls, name: str) -> "Model":
        """Open `path`, `hub/name@revision` or `model+adapter`. Raises UserError."""
        reference = parse_model_reference(name)
        checkpoint = Checkpoint.open(reference.path, revision=reference.revision)
        if reference.lora is None:
            return cls(reference, checkpoint)
        folder = _adapter_folder(reference)
        return cls(reference, checkpoint, Adapter.open(folder, checkpoint))

    def measured(self, folder: str) -> "Model":
        """The same with a statistics folder. Raises UserError when it belongs to another model."""
        if self.adapter is not None:
            found = f"statistics for {self.reference}, which is adapted as it is read"
            raise UserError(folder, found, "statistics of a checkpoint: merge the adapter first")
        statistics = Statistics.open(folder)
        statistics.check_belongs(self.checkpoint)
        return replace(self, statistics=statistics)

    @property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return self.checkpoint.folder

    @property
    def config(self) -> dict[str, Any]:
        """config.json."""
        return self.checkpoint.config

    def names(self) -> list[str]:
        """Sorted names of all tensors."""
        if self.adapter is None or not self.adapter.added:
            return self.checkpoint.names()
        return sorted({*self.checkpoint.tensors, *self.adapter.added})

    def spec(self, name: str) -> TensorSpec:
        """Shape, dtype and place of the stored tensor (an adapter changes values only)."""
        return self.checkpoint.spec(self.adapter.source(name) if self.adapter else name)

    def touches(self, name: str) -> bool:
        """Whether the adapter changes a tensor."""
        return self.adapter is not None and (
            self.adapter.touches(name) or name in self.adapter.added
        )

    def source(self, name: str, files: Files) -> Source:
        """The rows of a tensor, with its adapter applied."""
        if self.adapter is None or not self.touches(name):
            return FileSource(self.spec(name), files)
        whole = self.adapter.replaces(name)
        return AdaptedSource(FileSource(whole or self.spec(name), files), self.adapter, name)

    def array(self, name: str) -> NDArray[Any]:
        """A whole tensor in its stored type (with an adapter in float32)."""
        if self.adapter is None or not self.touches(name):
            return self.checkpoint.array(self.adapter.source(name) if self.adapter else name)
        files = Files()
        try:
            source = self.source(name, files)
            spec = self.spec(name)
            columns = spec.shape[-1] if spec.shape else 1
            out = np.empty((spec.num_elements // max(1, columns), columns), dtype=np.float32)
            source.rows(0, out)
        finally:
            files.close()
        return out.reshape(spec.shape)

    def identity(self) -> str:
        """A hash of all its weights: what random numbers are drawn by, whatever the path.

        Not of how they are cut into files, nor of what else lies in a folder; of an adapter it is
        that of its two files.
        """
        own = weights_sha256(self.checkpoint)
        if self.adapter is None:
            return own
        files = [self.adapter.folder / name for name in (peft.CONFIG, peft.WEIGHTS)]
        return digest.value([own, *map(digest.file, files)])

    def folders(self) -> dict[str, Path]:
        """Folders that the result depends on, by what they are: "", "-lora", "-statistics"."""
        found = {"": self.folder}
        if self.adapter is not None:
            found["-lora"] = self.adapter.folder
        if self.statistics is not None:
            found["-statistics"] = self.statistics.folder
        return found


def _adapter_folder(reference: ModelReference) -> str:
    from smelt.checkpoint.reader import find_folder

    return str(find_folder(str(reference.lora), reference.lora_revision))


@dataclass(frozen=True)
class AdaptedSource:
    """A tensor in a file with a low-rank update on top."""

    stored: FileSource
    adapter: Adapter
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def wide(self) -> bool:
        return self.stored.wide

    def rows(self, start: int, out: Rows) -> int:
        """Fill `out` with adapted rows."""
        bad = self.stored.rows(start, out)
        self.adapter.add_to(self.name, start, out)
        return bad


def check_float(model: Model, name: str) -> None:
    """Refuse a quantised tensor. Raises UserError."""
    spec = model.spec(name)
    if DTYPES[spec.dtype].name.startswith("float8"):
        raise UserError(spec.file, f"tensor '{name}' is quantised ({spec.dtype})", "no F8")
