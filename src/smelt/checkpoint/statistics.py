"""Statistics folders: what a model did on data, tensor by tensor, to be reused by many merges.

`statistics.json` describes; arrays (float32) stand in safetensors files next to it. Tensor names
are those of the model's checkpoint. A Gram matrix of an input that several layers share is stored
once; `Statistics` resolves that.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from smelt.checkpoint.reader import Checkpoint, TensorSpec, read_header, read_json
from smelt.core import config, digest
from smelt.core.config import Recipe
from smelt.core.errors import UserError

DESCRIPTION = "statistics.json"
Kind = Literal["gram", "fisher"]


class Measured(Recipe):
    """What is known of one tensor of the model."""

    shape: list[int]
    """Shape of the tensor in the model."""
    stored_as: str
    """Name in the files: its own, or that of a layer that reads the same input."""
    tokens: int = Field(gt=0)
    """Number of token positions in the sum (gram) or mean (fisher)."""
    input_axis: Literal[0, 1] | None = None
    """gram: the axis of the tensor that meets the input (1 for Linear, 0 for Conv1D of GPT-2)."""


class Description(Recipe):
    """The content of statistics.json."""

    format: Literal[1] = 1
    kind: Kind
    """gram: sum of x x^T over tokens; fisher: mean squared gradient per token."""
    weights_sha256: str
    """Identity of the model: see `weights_sha256`."""
    data_sha256: str
    """Hash of the data file."""
    rows: int
    """Data rows that were read."""
    examples: int
    """What they became: a row, or each window of a long text."""
    tokens: int
    """Token positions read (gram) or predicted (fisher)."""
    options: dict[str, int | str | None]
    """How it was measured."""
    skipped: dict[str, int]
    """Reason -> rows that were left out."""
    tensors: dict[str, Measured]
    left_out: dict[str, str]
    """Tensor of the model without statistics -> why."""
    files: list[str] = Field(min_length=1)


def weights_sha256(checkpoint: Checkpoint) -> str:
    """Identity of a model: names, types, shapes and contents of its tensors.

    Tokenizer and configuration do not count, nor how the tensors are cut into files. Large files
    are read once (1 GB: a second) and noted, as those of `digest.file`.
    """
    hashes: dict[str, str] = {}
    for file in checkpoint.files:
        hashes |= _tensor_hashes(file)
    facts = sorted(checkpoint.tensors.items())
    return digest.value([[n, one.dtype, list(one.shape), hashes[n]] for n, one in facts])


_PIECE_BYTES = 1 << 24


def _tensor_hashes(file: Path) -> dict[str, str]:
    """sha256 of the bytes of each tensor in a file."""
    specs = read_header(file)

    def find(path: Path) -> str:
        found = {}
        with path.open("rb") as stream:
            for name, spec in specs.items():
                content, left = hashlib.sha256(), spec.num_bytes
                stream.seek(spec.start)
                while left:
                    piece = stream.read(min(left, _PIECE_BYTES))
                    if not piece:
                        raise UserError(path, f"ends inside tensor '{name}'", "an unchanged file")
                    content.update(piece)
                    left -= len(piece)
                found[name] = content.hexdigest()
        return json.dumps(found)

    def sound(text: str) -> bool:
        hashes = json.loads(text)  # ValueError when it was cut off
        return isinstance(hashes, dict) and hashes.keys() == specs.keys()

    hashes: dict[str, str] = json.loads(digest.noted(file, find, sound, "tensors"))
    return hashes


@dataclass(frozen=True)
class Statistics:
    """An opened statistics folder; arrays are read on demand."""

    folder: Path
    description: Description
    stored: dict[str, TensorSpec]

    @classmethod
    def open(cls, folder: Path | str) -> "Statistics":
        """Open and check a folder that `smelt statistics` wrote. Raises UserError."""
        path = Path(folder)
        if not (path / DESCRIPTION).is_file():
            raise UserError(
                folder, f"no {DESCRIPTION} in it", "a statistics folder",
                "smelt statistics MODEL OUT --data ROWS --kind gram",
            )  # fmt: skip
        where = str(path / DESCRIPTION)
        found = config.parse(Description, read_json(path / DESCRIPTION), where)
        stored: dict[str, TensorSpec] = {}
        for name in found.files:
            if Path(name).name != name or not (path / name).is_file():
                raise UserError(where, f"no file '{name}'", "the files beside it", "measure again")
            stored |= read_header(path / name)
        for name, measured in found.tensors.items():
            spec, wanted = stored.get(measured.stored_as), _stored_shape(found.kind, measured)
            if spec is None or spec.shape != wanted or spec.dtype != "F32":
                seen = "nothing" if spec is None else f"{spec.dtype} {list(spec.shape)}"
                expected = f"F32 {list(wanted)} for '{name}'"
                raise UserError(
                    path, f"{seen} under '{measured.stored_as}'", expected, "measure again"
                )
        return cls(path, found, stored)

    @property
    def kind(self) -> Kind:
        """What was measured: "gram" or "fisher"."""
        return self.description.kind

    def names(self) -> list[str]:
        """Sorted names of the model's tensors that have statistics."""
        return sorted(self.description.tensors)

    def measured(self, name: str) -> Measured:
        """What is known of one tensor. Raises UserError when it was not measured."""
        if name not in self.description.tensors:
            other = "no linear layer" if self.kind == "gram" else "no parameter"
            why = self.description.left_out.get(name, other)
            raise UserError(self.folder, f"no {self.kind} of '{name}' ({why})", "a measured tensor")
        return self.description.tensors[name]

    def array(self, name: str) -> Float32[np.ndarray, "*shape"]:
        """The statistics of a tensor, float32, as a private copy.

        gram: (inputs, inputs), the sum of x x^T over `measured(name).tokens` positions; fisher:
        of the tensor's shape, the mean per predicted token. Raises UserError.
        """
        spec = self.stored[self.measured(name).stored_as]
        count = spec.num_bytes // 4
        with spec.file.open("rb") as stream:
            stream.seek(spec.start)
            data = np.fromfile(stream, dtype="<f4", count=count)
        if data.size != count:
            raise UserError(spec.file, f"ends inside tensor '{name}'", "an unchanged file")
        return data.reshape(spec.shape)

    def check_belongs(self, checkpoint: Checkpoint, *, contents: bool = True) -> None:
        """Refuse statistics of another model: other shapes, or other bytes in its tensors.

        contents: False leaves the hash out (a pass over the files), when it was compared before.
        Raises UserError with the command that measures this model.
        """
        for name, measured in self.description.tensors.items():
            spec = checkpoint.tensors.get(name)
            if spec is None or spec.shape != tuple(measured.shape):
                seen = "nowhere" if spec is None else f"{list(spec.shape)}"
                raise self._foreign(
                    checkpoint, f"'{name}' is {measured.shape} here and {seen} in the model"
                )
        if contents and weights_sha256(checkpoint) != self.description.weights_sha256:
            raise self._foreign(checkpoint, "the weight files differ")

    def _foreign(self, checkpoint: Checkpoint, why: str) -> UserError:
        return UserError(
            self.folder, f"statistics of another model than {checkpoint.folder}: {why}",
            "statistics of this model",
            f"smelt statistics {checkpoint.folder} OUT --data ROWS --kind {self.kind}",
        )  # fmt: skip


def _stored_shape(kind: Kind, measured: Measured) -> tuple[int, ...]:
    if kind == "fisher":
        return tuple(measured.shape)
    axis = measured.input_axis
    if axis is None or len(measured.shape) != 2:
        return ()
    return (measured.shape[axis], measured.shape[axis])
