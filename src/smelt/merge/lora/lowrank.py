"""The best approximation of a matrix by two thin ones, and how much of it they hold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Float32

Array = npt.NDArray[Any]

_CHUNK = 4096  # rows or columns of the long side that are float64 at a time


@dataclass(frozen=True)
class LowRank:
    """left (rows, rank) @ right (rank, columns), float32, with the singular values shared evenly.

    kept: share of the squared singular values; squares: their sum, the squared Frobenius norm.
    """

    left: Float32[np.ndarray, "rows rank"]
    right: Float32[np.ndarray, "rank columns"]
    kept: float
    squares: float

    @property
    def rank(self) -> int:
        return int(self.left.shape[1])


def low_rank(
    matrix: Float[np.ndarray, "rows columns"], rank: int, energy: float | None = None
) -> LowRank:
    """The truncated singular value decomposition of a matrix. (Eckart and Young 1936)

    rank: at most so many; energy: the smallest rank that keeps this share of the squared singular
    values (0 to 1), if `rank` reaches it. Directions below the rounding of float32 are left out.

    Exact: singular vectors of the short side are eigenvectors of its Gram matrix in float64, the
    other factor is the projection on them, so `kept` is what the product holds, not an estimate.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    across = matrix if wide else matrix.T  # short side first
    gram = np.zeros((len(across), len(across)))
    for start in range(0, across.shape[1], _CHUNK):
        part = across[:, start : start + _CHUNK].astype(np.float64)
        gram += part @ part.T
    squares = float(np.trace(gram))
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    count = _count(values, squares, max(matrix.shape), rank, energy)
    vectors = vectors[:, :count]
    projected = np.empty((count, across.shape[1]))
    for start in range(0, across.shape[1], _CHUNK):
        part = across[:, start : start + _CHUNK].astype(np.float64)
        projected[:, start : start + _CHUNK] = vectors.T @ part
    lengths = np.sqrt(np.square(projected).sum(axis=1))
    # The sign of an eigenvector is arbitrary: the largest entry of each is made positive.
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(count)])
    short = (vectors * (signs * np.sqrt(lengths))).astype(np.float32)
    long = (projected * (signs / np.sqrt(lengths))[:, None]).astype(np.float32)
    kept = float(np.square(lengths).sum() / squares) if squares else 1.0
    left, right = (short, long) if wide else (long.T, short.T)
    return LowRank(np.ascontiguousarray(left), np.ascontiguousarray(right), min(kept, 1.0), squares)


def _count(values: Array, squares: float, longest: int, rank: int, energy: float | None) -> int:
    """How many of the squared singular values (descending) to keep."""
    noise = values[:1] * longest * np.finfo(np.float32).eps ** 2
    count = min(rank, int(np.count_nonzero(values > noise)))
    if energy is None or squares == 0:
        return count
    enough = np.cumsum(values[:count]) >= energy * squares * (1 - 1e-9)
    return int(enough.argmax()) + 1 if enough.any() else count
