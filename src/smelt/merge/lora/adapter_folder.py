"""Write an extracted adapter as the folder that PEFT loads: factors, whole modules, config."""

import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import safe_open
from safetensors.numpy import save_file

from smelt.checkpoint import layout, peft
from smelt.checkpoint.folder import write_json
from smelt.checkpoint.reader import SINGLE
from smelt.checkpoint.writer import write_tensors
from smelt.core import progress
from smelt.core.errors import UserError
from smelt.merge.lora.extract import HEAD, Contents, Extraction
from smelt.merge.lora.lowrank import Array, LowRank, low_rank
from smelt.merge.model import Model

PARTS = "factors"


@dataclass(frozen=True)
class Extracted:
    """What one tensor became. energy: the share of its squared change that the adapter holds;
    change: its size, the change's Frobenius norm over the base's."""

    rank: int
    energy: float
    squares: float
    change: float


def write_adapter(
    job: Extraction, found: Contents, folder: Path, base_name: str
) -> dict[str, Extracted]:
    """Approximate all tensors and write adapter_model.safetensors and adapter_config.json.

    Factors are kept in a subfolder until all are there, so that an interrupted call continues.
    base_name: what the config calls the base. Gives what each low-rank tensor became.
    """
    parts = folder / PARTS
    parts.mkdir(exist_ok=True)
    done: dict[str, Extracted] = {}
    tensors: dict[str, Array] = {}
    for place, name in enumerate(progress.track(found.low, "extract", len(found.low))):
        path = parts / f"{place:05}.safetensors"
        if not path.is_file():
            _write_part(path, *_approximate(job, name))
        factors, done[name] = _read_part(path)
        tensors |= _named(job, name, factors)
    for module, names in found.whole.items():
        for name in names:
            source = job.head if module == HEAD and name not in job.names else name
            tensors[_key(job, name)] = job.model.array(source)
    for name in found.biases:
        module = name.removesuffix(".bias")
        tensors[_key(job, f"{module}.base_layer.bias")] = job.model.array(name)
    write_tensors(parts / "whole", tensors, max_shard_bytes=sys.maxsize, resume=True)
    os.replace(parts / "whole" / SINGLE, folder / peft.WEIGHTS)
    ranks = {name: one.rank for name, one in done.items()}
    write_json(folder / peft.CONFIG, _config(job, found, ranks, base_name))
    shutil.rmtree(parts)
    return done


def task_vector(job: Extraction, name: str) -> Float[np.ndarray, "*shape"]:
    """Model minus base, float32 (float64 if either is). Raises UserError for NaN or infinity."""
    model, base = (one.array(name) for one in (job.model, job.base))
    kind = np.float64 if np.float64 in (model.dtype, base.dtype) else np.float32
    difference = model.astype(kind) - base.astype(kind)
    if not np.isfinite(difference).all():
        raise UserError(job.model.folder, f"'{name}' holds NaN or infinity", "finite numbers")
    result: Array = difference
    return result


def size_of(model: Model, name: str) -> float:
    """Frobenius norm of a tensor."""
    return float(np.sqrt(np.square(model.array(name).astype(np.float64)).sum()))


def _approximate(job: Extraction, name: str) -> tuple[LowRank, float]:
    difference = task_vector(job, name)
    found = low_rank(difference, job.recipe.rank, job.recipe.energy)
    base = size_of(job.base, name)
    return found, float(np.sqrt(found.squares)) / base if base else 0.0


def _write_part(path: Path, found: LowRank, change: float) -> None:
    facts = {"kept": found.kept, "squares": found.squares, "change": change}
    unfinished = path.with_suffix(".unfinished")
    words = {key: value.hex() for key, value in facts.items()}
    save_file({"left": found.left, "right": found.right}, unfinished, metadata=words)
    os.replace(unfinished, path)


def _read_part(path: Path) -> tuple[tuple[Array, Array], Extracted]:
    with safe_open(path, "numpy") as part:
        facts = {key: float.fromhex(value) for key, value in (part.metadata() or {}).items()}
        left, right = part.get_tensor("left"), part.get_tensor("right")
    rank = right.shape[0]
    return (left, right), Extracted(rank, facts["kept"], facts["squares"], facts["change"])


def _module(job: Extraction, name: str) -> str:
    """PEFT's name of the module that holds a tensor."""
    plain = name if name.startswith(f"{HEAD}.") else job.prefix + name
    return plain.rpartition(".")[0]


def _key(job: Extraction, name: str) -> str:
    return f"{peft.PREFIX}{_module(job, name)}.{name.rpartition('.')[2]}"


def _is_embedding(name: str) -> bool:
    block, layer = layout.block_of(name), name.split(".")[-2]
    return block == "embedding" or ("embed" in layer and block != "head")


def _is_turned(job: Extraction, name: str) -> bool:
    return bool(peft.is_conv1d(job.base.config, name.rpartition(".")[0]))


def _named(job: Extraction, name: str, factors: tuple[Array, Array]) -> dict[str, Array]:
    """The factors of `left @ right` under PEFT's names, in the layout of the kind of layer."""
    left, right = factors
    place = peft.PREFIX + _module(job, name)
    if _is_embedding(name):
        return {f"{place}.lora_embedding_A": left.T, f"{place}.lora_embedding_B": right.T}
    if _is_turned(job, name):
        left, right = right.T, left.T
    return {f"{place}.lora_A.weight": right, f"{place}.lora_B.weight": left}


def _config(
    job: Extraction, found: Contents, ranks: dict[str, int], base_name: str
) -> dict[str, Any]:
    """adapter_config.json: alpha equals rank everywhere, so that the update is B @ A."""
    rank = Counter(ranks.values()).most_common(1)[0][0]
    # `^` ends PEFT's habit to match a name from any dot on.
    others = {f"^{_module(job, name)}": one for name, one in ranks.items() if one != rank}
    tied = job.embedding is not None and HEAD in found.whole and job.head == job.embedding
    return {
        "alpha_pattern": others,
        "base_model_name_or_path": base_name,
        "bias": "lora_only" if found.biases else "none",
        "ensure_weight_tying": tied,
        "fan_in_fan_out": any(_is_turned(job, name) for name in found.low),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": sorted(_module(job, f"{one}.weight") for one in found.whole) or None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": others,
        "target_modules": _targets(job, found),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _targets(job: Extraction, found: Contents) -> list[str]:
    """Last parts of module names where all modules of that name are meant, else whole names."""
    meant = {name.removesuffix(".weight") for name in found.low}
    all_modules = {name.rpartition(".")[0] for name in job.names}
    leaves = {name.rpartition(".")[2] for name in meant}
    chosen = set()
    for leaf in leaves:
        alike = {name for name in all_modules if name.rpartition(".")[2] == leaf}
        if alike <= meant:
            chosen.add(leaf)
        else:
            chosen |= {_module(job, f"{name}.weight") for name in alike & meant}
    return sorted(chosen)
