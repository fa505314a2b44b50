"""A LoRA adapter as PEFT saves it, added to the rows of a base checkpoint while they are read.

No model is built: the adapter's tensors are matched to those of the base by name, and a tensor of
the adapted model is `base + scale * B @ A`, row by row. (LoRA arXiv:2106.09685, rsLoRA
arXiv:2312.03732, DoRA arXiv:2402.09353)
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from smelt.checkpoint import peft
from smelt.checkpoint.layout import block_of, declared_tied, head_and_embedding
from smelt.checkpoint.reader import (
    DTYPES,
    FLOATS,
    Checkpoint,
    TensorSpec,
    find_folder,
    read_header,
)
from smelt.core.errors import UserError
from smelt.core.one_thread import one_thread

Array = npt.NDArray[Any]

# Rows are computed in panels of about this many elements that start at multiples of the panel from
# the tensor's first row: a matrix product of another number of rows may differ in the last bit.
PANEL = 1 << 16
HEAD = "lm_head.weight"
_KEPT = 16  # tensors whose factors stay in memory, more than threads work on at a time


@dataclass(frozen=True)
class _Low:
    """One update in the layout of the stored tensor: scale * left @ right, then DoRA's lengths."""

    left: TensorSpec
    right: TensorSpec
    turned: bool
    """Stored as inputs x outputs: the update is the transpose, right^T @ left^T of B @ A."""
    scale: float
    magnitude: TensorSpec | None


@dataclass
class Adapter:
    """An opened adapter, matched to its base; every tensor of its file has a place in the base.

    added: tensors that the adapted model has and the base does not, with the base tensor that
    they start from: the head, when the base is tied and the adapter parts head and embedding
    (as the adapted network computes; PEFT's own merge adds both updates to the one matrix).
    """

    folder: Path
    settings: peft.LoraSettings
    added: dict[str, str]
    low: dict[str, _Low]
    """Low-rank updates by base tensor."""
    offsets: dict[str, tuple[TensorSpec, float]]
    """Vectors added to biases, with their scale (`lora_bias`)."""
    whole: dict[str, TensorSpec]
    _kept: dict[str, tuple[Array, ...]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, folder: Path | str, base: Checkpoint) -> "Adapter":
        """Open an adapter folder (or hub name) for a base. Raises UserError naming the tensor."""
        path = find_folder(str(folder))
        settings = peft.read_settings(path)
        file = path / peft.WEIGHTS
        if not file.is_file():
            other = [item.name for item in sorted(path.glob("adapter_model*"))]
            raise UserError(
                path, f"only {other[0]} in it" if other else f"no {peft.WEIGHTS} in it",
                peft.WEIGHTS, "model.save_pretrained(folder, safe_serialization=True)",
            )  # fmt: skip
        adapter = cls(path, settings, {}, {}, {}, {})
        adapter._match(_grouped(file, read_header(file)), base)
        adapter._settle_head(base)
        return adapter

    @property
    def base_model(self) -> str | None:
        """The base that the adapter was trained on, as it says itself."""
        return self.settings.base_model_name_or_path

    def names(self) -> list[str]:
        """Sorted names of the tensors that differ from the base, added ones included."""
        return sorted({*self.low, *self.offsets, *self.whole, *self.added})

    def touches(self, name: str) -> bool:
        """Whether `replaces` or `add_to` changes the tensor."""
        return name in self.low or name in self.offsets or name in self.whole

    def source(self, name: str) -> str:
        """The base tensor that a tensor starts from: itself, unless it is one of `added`."""
        return self.added.get(name, name)

    def replaces(self, name: str) -> TensorSpec | None:
        """The adapter's own tensor to read in place of the base's (modules_to_save), in the base's
        shape; None to read the base. `add_to` still applies to its rows."""
        return self.whole.get(name)

    def add_to(self, name: str, start_row: int, rows: Float[np.ndarray, "rows columns"]) -> None:
        """Add the update to rows of a tensor, in place; does nothing for a tensor without one.

        rows: (rows, columns) float32 or float64, from row `start_row` on; columns is the tensor's
        last dimension, and a vector is one row. Neither the cut of a tensor into calls nor the
        number of threads changes a bit. Raises UserError for NaN or infinity in the adapter.
        """
        if name in self.offsets:
            spec, scale = self.offsets[name]
            rows += _finite(spec).astype(rows.dtype, copy=False) * rows.dtype.type(scale)
        if name not in self.low:
            return
        low = self.low[name]
        left, right, *magnitude = self._load(name, rows.dtype)
        scale, stop = rows.dtype.type(low.scale), start_row + len(rows)
        panel = max(1, PANEL // right.shape[1])
        with one_thread():
            for first in range(start_row - start_row % panel, stop, panel):
                update = left[first : first + panel] @ right
                update *= scale
                begin, end = max(first, start_row), min(first + panel, stop)
                rows[begin - start_row : end - start_row] += update[begin - first : end - first]
        for lengths in magnitude:
            norms = np.sqrt(np.add.reduce(np.square(rows), axis=1))
            ratio = np.divide(lengths[start_row:stop], norms, where=norms > 0, out=norms * 0)
            rows *= ratio[:, None]

    def _load(self, name: str, dtype: np.dtype[Any]) -> tuple[Array, ...]:
        """Factors of one tensor (and DoRA's lengths), kept for the next blocks of it."""
        key = f"{dtype} {name}"
        with self._lock:
            if key not in self._kept:
                low = self.low[name]
                arrays = [*_factors(low), *([_finite(low.magnitude)] if low.magnitude else [])]
                while len(self._kept) >= _KEPT:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[key] = tuple(one.astype(dtype, copy=False) for one in arrays)
            return self._kept[key]

    def _match(self, groups: "Groups", base: Checkpoint) -> None:
        """Give every tensor of the adapter its place in the base. Raises UserError."""
        find = _finder(base)
        for module, parts in groups.items():
            some = next(iter(parts.values()))
            where = f"{self.folder / peft.WEIGHTS}: {module}"
            if "whole" in parts:
                name = find(module, some.file)
                _same_shape(where, some.shape, base.spec(self._start(name, base)).shape)
                self.whole[name] = some
                continue
            name = find(f"{module}.weight", some.file)
            shape = base.spec(self._start(name, base)).shape
            self.low[name] = _update(self.settings, where, module, parts, shape, base.config)
            if "bias" in parts:
                bias = find(f"{module}.bias", some.file)
                _same_shape(where, parts["bias"].shape, base.spec(bias).shape)
                self.offsets[bias] = (parts["bias"], self.low[name].scale)

    def _start(self, name: str, base: Checkpoint) -> str:
        """The base tensor under a name; the head of a tied base is its embedding."""
        if name in base.tensors:
            return name
        embedding = head_and_embedding(base.names())[1]
        assert embedding is not None
        return self.added.setdefault(name, embedding)

    def _settle_head(self, base: Checkpoint) -> None:
        """With a tied base: one matrix if the adapter treats head and embedding alike, else two."""
        head, embedding = head_and_embedding(base.names())
        if embedding is None or head is not None:
            return
        name = next(iter(self.added), HEAD)
        if not (self.touches(name) or self.touches(embedding)) or not _has_head(base):
            return
        if self._alike(name, embedding):
            self.added.pop(name, None)
            self.low.pop(name, None)
            self.whole.pop(name, None)
        else:
            self.added[name] = embedding

    def _alike(self, name: str, other: str) -> bool:
        """Whether the adapter gives two tensors of one start the same values."""
        wholes = [self.whole.get(one) for one in (name, other)]
        lows = [self.low.get(one) for one in (name, other)]
        if wholes.count(None) == 1 or lows.count(None) == 1:
            return False
        first, second = (_finite(spec) if spec else None for spec in wholes)
        same = first is None or second is None or np.array_equal(first, second)
        one, two = lows
        if one is None or two is None:
            return same
        if one.magnitude or two.magnitude or one.scale != two.scale:
            return False
        return same and all(map(np.array_equal, _factors(one), _factors(two)))


def _factors(low: _Low) -> tuple[Array, Array]:
    """(rows, rank) and (rank, columns), whose product is the update of the stored tensor."""
    left, right = _finite(low.left), _finite(low.right)
    if low.turned:
        left, right = np.ascontiguousarray(right.T), np.ascontiguousarray(left.T)
    return left, right


Groups = dict[str, dict[peft.Role, TensorSpec]]


def _grouped(file: Path, specs: dict[str, TensorSpec]) -> Groups:
    """The tensors of an adapter file by module and role. Raises UserError for a strange name."""
    groups: Groups = {}
    adapters: set[str] = set()
    for name, spec in specs.items():
        found = peft.parse_name(name)
        if found is None:
            raise UserError(file, f"tensor '{name}' is not of a LoRA or DoRA adapter")
        if spec.dtype not in FLOATS.values():
            raise UserError(file, f"tensor '{name}' is {spec.dtype}", ", ".join(FLOATS.values()))
        group = groups.setdefault(found.module, {})
        if found.role in group:
            raise UserError(file, f"tensor '{name}' is there under two names", "one of them")
        group[found.role] = spec
        adapters |= {found.adapter} if found.role != "whole" else set()
    if len(adapters) > 1:
        raise UserError(file, f"several adapters: {', '.join(sorted(adapters))}", "one adapter")
    return groups


def _finder(base: Checkpoint) -> Callable[[str, Path], str]:
    """From a tensor's name in PEFT to its name in the base. A model that was saved without its
    head (or one loaded without it) has a shorter name for the same tensor."""
    known = base.tensors
    tails: dict[str, list[str]] = {}
    for name in known:
        tails.setdefault(name.partition(".")[2], []).append(name)
    head, embedding = head_and_embedding(known)
    is_tied = head is None and embedding is not None and _has_head(base)

    def find(name: str, file: Path) -> str:
        if name in known:
            return name
        shorter = name.partition(".")[2]
        found = tails.get(name, []) + ([shorter] if shorter in known else [])
        if len(found) == 1:
            return found[0]
        if is_tied and block_of(name) == "head":
            return name
        raise UserError(
            file, f"'{name}' is {'ambiguous' if found else 'no tensor'} in {base.folder}",
            "an adapter of this base", "name the base that the adapter was trained on",
        )  # fmt: skip

    return find


def _has_head(base: Checkpoint) -> bool:
    """Whether the network has a language model head, stored or tied."""
    names = " ".join(map(str, base.config.get("architectures") or []))
    return declared_tied(base.config) or "ForCausalLM" in names or "LMHead" in names


def _update(
    settings: peft.LoraSettings,
    where: str,
    module: str,
    parts: dict[peft.Role, TensorSpec],
    shape: tuple[int, ...],
    model: dict[str, Any],
) -> _Low:
    """The update of a module's weight of that shape. Raises UserError if the factors do not fit."""
    embedding = "embedding_A" in parts or "embedding_B" in parts
    down = parts.get("embedding_A" if embedding else "A")
    up = parts.get("embedding_B" if embedding else "B")
    if down is None or up is None:
        raise UserError(where, "one of the two factors is missing", "lora_A and lora_B")
    if {len(down.shape), len(up.shape), len(shape)} != {2}:
        raise UserError(
            where, f"factors {list(down.shape)} and {list(up.shape)} for a weight {list(shape)}",
            "a linear layer or an embedding; convolutions are not supported",
        )  # fmt: skip
    rank = settings.rank_of(module)
    if (down.shape[0], up.shape[1]) != (rank, rank):
        found = f"rank {down.shape[0]} and {up.shape[1]}, {peft.CONFIG} says {rank}"
        raise UserError(where, found, "the config that was saved with the tensors")
    straight, turned = (up.shape[0], down.shape[1]), (down.shape[1], up.shape[0])
    known = True if embedding else peft.is_conv1d(model, module)
    is_turned = settings.fan_in_fan_out and shape == turned if known is None else known
    if shape != (turned if is_turned else straight):
        found = f"an update of {list(straight)} for a weight of {list(shape)}"
        raise UserError(where, found, "an adapter of this base")
    magnitude = parts.get("magnitude")
    if settings.use_dora and magnitude is None:
        raise UserError(where, "no lora_magnitude_vector", "one for each module of a DoRA adapter")
    if magnitude is not None and is_turned:
        # Its lengths run along the stored columns: they would need the whole tensor, not rows.
        raise UserError(where, "DoRA on an embedding or a Conv1D", "DoRA on linear layers only")
    if magnitude is not None and math.prod(magnitude.shape) != shape[0]:
        raise UserError(where, f"lora_magnitude_vector {list(magnitude.shape)}", f"[{shape[0]}]")
    return _Low(up, down, is_turned, settings.scale_of(module), magnitude)


def _same_shape(where: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise UserError(
            where, f"shape {list(found)}", f"{list(wanted)} as in the base",
            "an adapter that resizes the vocabulary needs a base with the resized one",
        )  # fmt: skip


def _finite(spec: TensorSpec) -> Array:
    array = read_floats(spec)
    if not np.isfinite(array).all():
        raise UserError(spec.file, "a tensor holds NaN or infinity", "finite numbers")
    return array


def read_floats(spec: TensorSpec) -> Float[np.ndarray, "*shape"]:
    """A float tensor as float32 (float64 if it is stored so), in its shape."""
    with spec.file.open("rb") as stream:
        stream.seek(spec.start)
        content = stream.read(spec.num_bytes)
    if len(content) != spec.num_bytes:
        raise UserError(spec.file, "ends inside a tensor", "an unchanged file")
    data = np.frombuffer(content, DTYPES[spec.dtype])
    kind = np.float64 if spec.dtype == "F64" else np.float32
    return data.astype(kind, copy=False).reshape(spec.shape)
