"""What is in a written GGUF file, read back from its header."""

from dataclasses import dataclass
from pathlib import Path

import gguf


@dataclass(frozen=True)
class Contents:
    """bits_per_weight: over all tensors, norms included. kept: matrices in a larger type."""

    bits_per_weight: float
    kept: list[str]


def contents(path: Path, quantize: str) -> Contents:
    """Effective bits per weight of a file, and the matrices that are not of the type asked for."""
    tensors = gguf.GGUFReader(path).tensors
    bits = 8 * sum(int(tensor.n_bytes) for tensor in tensors)
    kept = [
        str(tensor.name)
        for tensor in tensors
        if len(tensor.shape) > 1 and tensor.tensor_type.name.lower() != quantize
    ]
    return Contents(round(bits / sum(int(tensor.n_elements) for tensor in tensors), 3), kept)
