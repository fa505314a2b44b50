"""Linear algebra on whole tensors, in float64, by one code for numpy and torch arrays.

numpy's part runs on one thread (`core.one_thread`).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from smelt.checkpoint.layout import block_of
from smelt.core.errors import UserError
from smelt.core.one_thread import one_thread
from smelt.merge import ops

Array = ops.Array
Matrix = Float[Any, "rows columns"]

NOISE = 2.0**-23
"""A singular value is rounding of float32 inputs at this share of the largest, times the longer
side. Directions at or below it are not determined by the models but by the LAPACK at hand."""

DIRECT = 512
"""Up to this size a singular value decomposition costs nothing; above, the short side's Gram matrix
does it in a third to an eighth of the time. In float64 it gives directions above NOISE to better
than (2^-26 / (size * NOISE))^2, which is 6e-8 at this size and less above."""


def library(values: Array) -> Any:
    """The module numpy or torch, whose functions used here have the same names and arguments."""
    if ops.on_cpu(values):
        return np
    import torch

    return torch


def shares(where: str, weights: Sequence[float]) -> list[float]:
    """Weights as shares that sum to 1. Raises UserError if one is negative or all are 0."""
    if min(weights) < 0 or sum(weights) <= 0:
        raise UserError(
            where, f"found {list(weights)}", "weights of 0 or more, one of them above 0"
        )
    return [weight / sum(weights) for weight in weights]


def merge_matrix(
    name: str,
    base: ops.Base,
    experts: ops.Experts,
    lambda_: float,
    merge: Callable[[Iterator[Array]], Array],
) -> ops.Base:
    """Base + lambda * merge(task vectors), which come one by one as float64 matrices.

    Tensors that are no matrices, and vocabularies (embeddings, head; told from the name), get the
    mean task vector instead. So do NaN and infinity, for which no decomposition exists: they
    reach the result, which the engine refuses with the file's name.
    """
    matrix = len(base.shape) == 2 and block_of(name) not in ("embedding", "head")
    finite = library(experts).isfinite
    if not (matrix and finite(experts).all() and finite(base).all()):
        share = lambda_ / len(experts)
        return ops.weighted_sum(experts, [share] * len(experts), base, 1 - lambda_)
    with one_thread():
        start = ops.wide(base)
        merged = merge(ops.wide(expert) - start for expert in experts)
        return ops.like(start + lambda_ * merged, base)


class Decomposed(NamedTuple):
    """left @ diag(values[:kept]) @ right: singular vectors (rows, kept), (kept, columns) of the
    largest directions above the noise; values: all min(rows, columns), descending."""

    left: Array
    values: Array
    right: Array


def svd(matrix: Matrix, most: int | None = None) -> Decomposed:
    """Singular value decomposition of a float64 matrix, `most` directions (default all)."""
    xp = library(matrix)
    rows, columns = matrix.shape
    cut = max(rows, columns) * NOISE
    if max(rows, columns) <= DIRECT:
        left, values, right = xp.linalg.svd(matrix, full_matrices=False)
        kept = _above(values, cut, most)
        return Decomposed(left[:, :kept], values, right[:kept])
    short = matrix if rows <= columns else matrix.T
    squares, vectors = _descending(short @ short.T)
    values = xp.sqrt(squares)
    kept = _above(values, cut, most)
    vectors = vectors[:, :kept]
    across = vectors.T @ short
    across /= values[:kept, None]
    if rows <= columns:
        return Decomposed(vectors, values, across)
    return Decomposed(across.T, values, vectors.T)


def _descending(symmetric: Float[Any, "side side"]) -> tuple[Array, Array]:
    """Eigenvalues, negative ones as 0, and eigenvectors as columns; the largest first."""
    xp = library(symmetric)
    values, vectors = xp.linalg.eigh(symmetric)
    return xp.clip(xp.flip(values, (0,)), 0, None), xp.flip(vectors, (1,))


def _above(values: Array, share: float, most: int | None) -> int:
    count = int((values > share * values[0]).sum())
    return count if most is None else min(count, most)


def polar(matrix: Matrix) -> Matrix:
    """The nearest matrix with orthonormal rows or columns, without directions that are noise."""
    parts = svd(matrix)
    return parts.left @ parts.right


def product_axes(
    factor: Matrix, most: int
) -> tuple[Float[Any, " kept"], Float[Any, "columns kept"]]:
    """The largest eigenvalues of factor^T factor and their eigenvectors, at most so many.

    By the smaller of factor^T factor and factor factor^T; none of the null space of both.
    """
    rows, columns = factor.shape
    dual = rows < columns
    values, vectors = _descending(factor @ factor.T if dual else factor.T @ factor)
    kept = _above(values, columns * 2.0**-52, most)
    values, vectors = values[:kept], vectors[:, :kept]
    return values, factor.T @ vectors / library(factor).sqrt(values) if dual else vectors


def cube(matrix: Matrix) -> Matrix:
    """matrix @ matrix^T @ matrix."""
    rows, columns = matrix.shape
    if rows < columns:
        return (matrix @ matrix.T) @ matrix
    return matrix @ (matrix.T @ matrix)


def divide(
    right: Matrix, matrix: Float[Any, "columns columns"], *, definite: bool, rounding: float
) -> Matrix:
    """right @ inverse of a symmetric matrix without negative eigenvalues, which is overwritten.

    Where the matrix is singular, its pseudo-inverse. definite: apart from rows of zeros it is well
    conditioned once its diagonal is scaled to 1. Else eigenvalues up to columns * rounding of the
    largest count as zero.
    """
    xp = library(matrix)
    live = xp.diagonal(matrix) > 0
    if not live.all():
        result = xp.zeros_like(right)
        if live.any():
            part = matrix[live][:, live]
            result[:, live] = divide(right[:, live], part, definite=definite, rounding=rounding)
        return result
    if definite:
        scale = 1 / xp.sqrt(xp.diagonal(matrix))
        matrix *= scale[:, None]
        matrix *= scale
        return xp.linalg.solve(matrix, (right * scale).T).T * scale
    values, vectors = _descending(matrix)
    kept = _above(values, len(values) * rounding, None)
    vectors = vectors[:, :kept]
    return (right @ vectors / values[:kept]) @ vectors.T
