"""Read a checkpoint folder lazily: every header is checked at open, before any tensor is read.

Tensors are numpy arrays; torch is imported only by who asks for torch tensors (`Checkpoint.read`).
"""

import json
import math
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from smelt.core.errors import UserError

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
MAX_SIZE = 1 << 48  # of one dimension
MAX_DIMENSIONS = 64  # the limit of numpy
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}
FLOATS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Name in a config.json -> name in a safetensors header, of the types that are merged."""
HUB_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.jinja", "merges.txt", "vocab*"]


@dataclass(frozen=True)
class TensorSpec:
    """What a header says about one tensor. `dtype` is the safetensors name, e.g. "BF16"."""

    shape: tuple[int, ...]
    dtype: str
    file: Path
    start: int
    """First byte of the data in the file."""

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint folder: config and checked headers; tensors are read on demand."""

    folder: Path
    config: dict[str, Any]
    files: list[Path]
    tensors: dict[str, TensorSpec]

    @classmethod
    def open(cls, folder: Path | str, *, revision: str | None = None) -> "Checkpoint":
        """Open a local folder or a hub model. Raises UserError naming the file and the tensor."""
        path = find_folder(str(folder), revision)
        for file in sorted(path.iterdir()):
            if any(file.match(pattern) for pattern in HUB_FILES):
                refuse_leaving(file)
        config = read_json(path / "config.json")
        files = _weight_files(path)
        tensors: dict[str, TensorSpec] = {}
        for file in files:
            for name, spec in read_header(file).items():
                if name in tensors:
                    other = tensors[name].file.name
                    raise UserError(file, f"tensor '{name}' is also in {other}", "one of them")
                tensors[name] = spec
        if (path / INDEX).is_file():
            _check_index(path, tensors)
        return cls(path, config, files, dict(sorted(tensors.items())))

    def names(self) -> list[str]:
        """The sorted names of all tensors."""
        return list(self.tensors)

    def spec(self, name: str) -> TensorSpec:
        """Shape, dtype and place of one tensor. Raises UserError for an unknown name."""
        if name not in self.tensors:
            raise UserError(self.folder, f"no tensor '{name}' in it", "a tensor of its header")
        return self.tensors[name]

    def array(self, name: str) -> NDArray[Any]:
        """One tensor in its stored dtype (ml_dtypes for bfloat16), as a private copy."""
        spec = self.spec(name)
        data = np.empty(spec.num_bytes, dtype=np.uint8)
        with spec.file.open("rb") as stream:
            stream.seek(spec.start)
            if stream.readinto(memoryview(data.data)) != spec.num_bytes:
                raise UserError(spec.file, f"ends inside tensor '{name}'", "an unchanged file")
        return data.view(DTYPES[spec.dtype]).reshape(spec.shape)

    def read(self, name: str) -> "torch.Tensor":
        """One tensor in its stored dtype as a torch tensor, a private copy."""
        return to_torch(self.array(name))


def to_torch(array: NDArray[Any]) -> "torch.Tensor":
    """The same memory as a torch tensor of the same dtype."""
    import torch

    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return torch.from_numpy(flat).view(_torch_type(array.dtype)).reshape(array.shape)


@cache
def _torch_type(kind: np.dtype[Any]) -> "torch.dtype":
    import torch

    found: torch.dtype = getattr(torch, kind.name)
    return found


def find_folder(text: str, revision: str | None = None) -> Path:
    """The local folder of a path or of a hub name (downloaded once). Raises UserError."""
    path = Path(text).expanduser()
    if path.is_dir():
        if revision is not None:
            raise UserError(path, f"a folder, with revision '{revision}'", "a hub model for it")
        return path
    if path.exists():
        raise UserError(path, "a file", "a checkpoint folder (config.json and safetensors)")
    looks_local = path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1
    if looks_local or not all(part.strip() for part in text.split("/")):
        raise UserError(text, "no such folder", "a checkpoint folder, or a hub name like org/model")
    return _from_hub(text, revision)


def local_path(text: str) -> str:
    """A path as it is written, or for a hub name the folder that holds the model."""
    return text if Path(text).exists() else str(find_folder(text))


def _from_hub(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise UserError(
            name, "no such folder", "a folder; hub names need huggingface-hub",
            "pip install 'smelt[train]'",
        ) from error  # fmt: skip
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(
            name,
            f"neither a folder nor reachable on the hub ({type(error).__name__}: {reason})",
            "a checkpoint folder, or a hub name like org/model",
            "check the path; offline only downloaded models are found",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint folder. Raises UserError."""
    if not path.is_file():
        raise UserError(path, "no such file", "a checkpoint folder with config.json")
    refuse_leaving(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(path, f"not JSON ({error})", "a JSON object") from error
    if not isinstance(data, dict):
        raise UserError(path, f"a JSON {type(data).__name__}", "a JSON object")
    return data


def read_optional_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, an empty one when there is no such file. Raises UserError."""
    return read_json(path) if path.is_file() else {}


def refuse_leaving(file: Path) -> None:
    """Raise UserError for a link out of the file's folder; a hub snapshot may link to its blobs.

    Else a folder from the net could name any file of this machine, and a result would carry it on.
    """
    if not file.is_symlink():
        return
    home = file.parent.resolve()
    for folder in (home, *home.parents):
        if folder.parent.name == "snapshots" and (folder.parents[1] / "blobs").is_dir():
            home = folder.parents[1]
            break
    if not file.resolve().is_relative_to(home):
        raise UserError(
            file, "a link that leaves the folder", "a file inside it", "copy the file there"
        )


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        names = sorted({str(file) for file in _weight_map(index).values()})
    elif (folder / SINGLE).is_file():
        names = [SINGLE]
    else:
        other = [path.name for path in sorted(folder.glob("*.bin"))]
        found = f"only {other[0]}" if other else "no weights"
        hint = "convert it: model.save_pretrained(folder, safe_serialization=True)" if other else ""
        raise UserError(folder, f"{found} in it", f"{SINGLE} or {INDEX}", hint)
    files = []
    for name in names:
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name:
            raise UserError(index, f"the shard name '{name}' leaves the folder", "a plain name")
        file = folder / name
        if not file.is_file():
            raise UserError(file, "missing shard", f"every file named in {INDEX}")
        files.append(file)
    return files


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(index, "no weight_map in it", "a mapping from tensor to file")
    for tensor, file in weight_map.items():
        _check_name(index, tensor)
        if not isinstance(file, str) or not _is_text(file):
            raise UserError(index, f"weight_map['{tensor}'] is {file!r}", "a file name")
    return weight_map


def _check_index(folder: Path, tensors: dict[str, TensorSpec]) -> None:
    weight_map = _weight_map(folder / INDEX)
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file.name != file:
            raise UserError(folder / INDEX, f"tensor '{name}' is not in {file}", "it in that shard")
    for name, spec in tensors.items():
        if name not in weight_map:
            raise UserError(spec.file, f"tensor '{name}' is not in {INDEX}", "every tensor in it")


def read_header(file: Path) -> dict[str, TensorSpec]:
    """The checked tensors of one safetensors file. Raises UserError naming file and tensor."""
    refuse_leaving(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if len(head) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise UserError(
                file, f"truncated or not safetensors: header of {length} bytes in a file of {size}",
                "a complete safetensors file", "copy or download it again",
            )  # fmt: skip
        text = stream.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(file, f"header is not JSON ({error})", "a safetensors file") from error
    if not isinstance(header, dict):
        raise UserError(file, "header is no JSON object", "a safetensors file")
    header.pop("__metadata__", None)
    specs: dict[str, TensorSpec] = {}
    spans = []
    for name, entry in header.items():
        shape, dtype, begin, end = _entry(file, name, entry)
        if end > size - 8 - length:
            raise UserError(
                file, f"truncated: tensor '{name}' ends at byte {8 + length + end} of {size}",
                "a complete file", "copy or download it again",
            )  # fmt: skip
        specs[name] = TensorSpec(shape, dtype, file, 8 + length + begin)
        if specs[name].num_bytes != end - begin:
            raise UserError(
                file, f"tensor '{name}' has {end - begin} bytes",
                f"{specs[name].num_bytes} for {dtype} {list(shape)}",
            )  # fmt: skip
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            what = "overlaps the tensor before it" if begin < position else "follows a hole"
            raise UserError(file, f"tensor '{name}' {what}", "tensors one after the other")
        position = end
    if position != size - 8 - length:
        extra = size - 8 - length - position
        raise UserError(file, f"{extra} bytes after the last tensor", "no bytes without a tensor")
    return specs


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_name(file: Path, name: str) -> None:
    if not _is_text(name):
        raise UserError(file, f"the tensor name {name!a} is no text", "a name in UTF-8")


def _is_size(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and item >= 0


def _entry(file: Path, name: str, entry: Any) -> tuple[tuple[int, ...], str, int, int]:
    """Shape, dtype and offsets of a header entry of which nothing is trusted."""
    _check_name(file, name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise UserError(file, f"tensor '{name}' has a damaged entry", "dtype, shape, data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(file, f"tensor '{name}' has dtype {dtype!a}", ", ".join(DTYPES))
    if not isinstance(shape, list) or not all(_is_size(item) for item in shape):
        raise UserError(file, f"tensor '{name}' has shape {shape!a}", "a list of sizes")
    if len(shape) > MAX_DIMENSIONS or any(item > MAX_SIZE for item in shape):
        found = f"{len(shape)} dimensions, the largest {str(max(shape))[:20]}"
        expected = f"at most {MAX_DIMENSIONS}, of at most {MAX_SIZE} each"
        raise UserError(file, f"tensor '{name}' has {found}", expected)
    valid = isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_size, offsets))
    if not valid or offsets[0] > offsets[1]:
        raise UserError(file, f"tensor '{name}' has offsets {offsets!a}", "[begin, end]")
    return tuple(shape), dtype, offsets[0], offsets[1]
