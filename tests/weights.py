"""Weights of a checkpoint folder from tensors in memory."""

from pathlib import Path

import torch

from smelt.checkpoint.writer import MAX_SHARD_BYTES, Entry, Writer


def write_checkpoint(
    folder: Path, tensors: dict[str, torch.Tensor], *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write tensors to an empty folder (weights only, no side files)."""
    entries = [Entry(name, tuple(item.shape), item.dtype) for name, item in tensors.items()]
    with Writer(folder, entries, max_shard_bytes=max_shard_bytes) as writer:
        for name in writer.missing():
            writer.write(name, tensors[name])
