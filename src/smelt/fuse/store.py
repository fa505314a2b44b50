"""Logit store: top-k log-probabilities of one model over a corpus, in its own tokenization.

A folder of .npy columns, memory-mapped, plus meta.json. Ragged over samples, top-k wide over steps;
no padding is stored, and nothing is aligned: aligning is cheaper than reading. The mass outside the
top-k is kept, so a distribution can always be put together again. An Arrow backend (Parquet for
archives, ids in planes, k by mass) is a later issue; the columns are named so that it can follow.

Log-probabilities are fp32 by default. fp16 makes a step smaller by a quarter only (the ids take the
larger part), and costs 3 decimal digits of the gradient at equality; it is there for large corpora.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from smelt.core import digest
from smelt.core.errors import UserError
from smelt.fuse.tokenized import Row, row_digest

FORMAT = 1
META = "meta.json"
Precision = Literal["float32", "float16"]
SAMPLE_COLUMNS = ("row", "reason", "pending", "offsets")


def model_digest(folder: Path) -> str:
    """sha256 over the weight files and config.json of a model folder."""
    found = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not found:
        raise UserError(folder, "no weight files in it", "a Hugging Face model folder")
    paths = [*found, *folder.glob("config.json")]
    return digest.value({path.name: digest.file(path) for path in paths})


def tokenizer_digest(folder: Path) -> str:
    """sha256 of a folder's tokenizer.json."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(path, "no such file", "the tokenizer of a Hugging Face model folder")
    return digest.file(path)


def step_columns(num_steps: int, top_k: int, precision: Precision) -> dict[str, tuple[Any, Any]]:
    """Shape and type of the columns that have one entry per step."""
    return {
        "byte_end": ((num_steps,), np.uint32),
        "ids": ((num_steps, top_k), np.uint32),
        "logp": ((num_steps, top_k), np.dtype(precision)),
        "rest": ((num_steps,), np.float32),
        "nll": ((num_steps,), np.float32),
    }


@dataclass(frozen=True)
class LogitStore:
    """An open store. Columns are read-only memory maps; steps are flat, `offsets` cuts samples."""

    meta: dict[str, Any]
    """model_sha256, tokenizer_sha256, top_k, vocab, eos_id, precision, reasons, rows, steps, ..."""
    row: npt.NDArray[np.uint64]
    """[samples] `row_digest` of the row."""
    reason: npt.NDArray[np.uint8]
    """[samples] index into meta["reasons"]; 0 is "kept", the others have no steps."""
    pending: npt.NDArray[np.bool_]
    """[samples] the first step stands before a dummy space (see `tokenized.marks`)."""
    offsets: npt.NDArray[np.int64]
    """[samples + 1] first step of each sample."""
    byte_end: npt.NDArray[np.uint32]
    """[steps] bytes of the text that the model has read."""
    ids: npt.NDArray[np.uint32]
    """[steps top_k] most probable next tokens, best first, in the model's own vocabulary."""
    logp: npt.NDArray[np.floating[Any]]
    """[steps top_k] their log-probabilities in nats (temperature 1)."""
    rest: npt.NDArray[np.float32]
    """[steps] probability outside the top-k."""
    nll: npt.NDArray[np.float32]
    """[steps] negative log-likelihood of the token that follows, in nats."""

    @classmethod
    def open(
        cls, folder: Path, *, expect_model: str | None = None, expect_tokenizer: str | None = None
    ) -> "LogitStore":
        """Open a finished store. Raises UserError when it is unfinished, damaged, or was captured
        from another model or tokenizer than expected (`model_digest`, `tokenizer_digest`)."""
        path = folder / META
        if not path.is_file():
            raise UserError(folder, "no finished logit store", "a folder with meta.json")
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(path, "not JSON", "the meta data of a logit store") from error
        if meta.get("format") != FORMAT:
            raise UserError(path, f"format {meta.get('format')}", f"format {FORMAT}")
        for name, expected in (("model", expect_model), ("tokenizer", expect_tokenizer)):
            found = meta[f"{name}_sha256"]
            if expected is not None and found != expected:
                raise UserError(
                    f"{folder}: {name}",
                    f"captured from another {name} ({found[:12]})",
                    f"sha256 {expected[:12]}",
                    "capture again, or name the folder of that model",
                )
        names = (*SAMPLE_COLUMNS, *step_columns(0, 0, "float32"))
        return cls(meta, **{name: _column(folder, name) for name in names})._checked(folder)

    def _checked(self, folder: Path) -> "LogitStore":
        rows, steps, top_k = (self.meta[name] for name in ("rows", "steps", "top_k"))
        shapes = {name: shape for name, (shape, _) in step_columns(steps, top_k, "float32").items()}
        shapes |= dict.fromkeys(SAMPLE_COLUMNS, (rows,)) | {"offsets": (rows + 1,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise UserError(
                    f"{folder}/{name}.npy", f"shape {getattr(self, name).shape}", str(shape)
                )
        return self

    def find(self, rows: Sequence[Row]) -> npt.NDArray[np.int64]:
        """[rows] the sample of each row, -1 for rows that were not captured."""
        samples = {int(key): sample for sample, key in enumerate(self.row)}
        return np.array([samples.get(row_digest(row), -1) for row in rows], np.int64)


def _column(folder: Path, name: str) -> npt.NDArray[Any]:
    path = folder / f"{name}.npy"
    try:
        # A zero-length column cannot be mapped.
        empty = (
            np.load(path, mmap_mode=None, allow_pickle=False)
            if path.stat().st_size <= 128
            else None
        )
        column = np.load(path, mmap_mode="r", allow_pickle=False) if empty is None else empty
    except (OSError, ValueError) as error:
        raise UserError(
            path, "missing or damaged", "a column of the store", "capture again"
        ) from error
    return np.asarray(column) if empty is not None else column


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Finish a store: meta.json appears last and at once."""
    text = json.dumps(meta, indent=1, sort_keys=True) + "\n"
    new = folder / (META + ".new")
    new.write_text(text, encoding="utf-8")
    new.rename(folder / META)
