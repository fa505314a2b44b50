"""Weights of a checkpoint folder from tensors in memory."""

from pathlib import Path
from typing import Any

import ml_dtypes
import torch
from numpy.typing import NDArray

from smelt.checkpoint.writer import MAX_SHARD_BYTES, write_tensors


def to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """The values of a torch tensor as an array of the same dtype."""
    own = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return own.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    if tensor.dtype == torch.float8_e4m3fn:
        return own.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
    return own.numpy()


def write_checkpoint(
    folder: Path, tensors: dict[str, torch.Tensor], *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write tensors to an empty folder (weights only, no side files)."""
    arrays = {name: to_numpy(one) for name, one in tensors.items()}
    write_tensors(folder, arrays, max_shard_bytes=max_shard_bytes)
