"""Inner products of models and of their differences, from the moments that one pass sums up."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def weight_products(moments: NDArray[Any]) -> NDArray[Any]:
    """Inner products of the models from moments: (models, models).

    moments: inner products of [model 0, model 1 - model 0, model 2 - model 0...].
    """
    start, along, gaps = moments[0, 0], moments[0].copy(), moments.copy()
    along[0], gaps[0], gaps[:, 0] = 0.0, 0.0, 0.0
    return np.asarray(start + along[:, None] + along[None, :] + gaps)


def difference_products(moments: NDArray[Any], origin: int) -> NDArray[Any]:
    """Inner products of all models minus one of them, (models, models), from moments."""
    gaps = moments.copy()
    gaps[0], gaps[:, 0] = 0.0, 0.0
    row = gaps[origin]
    return np.asarray(gaps - row[:, None] - row[None, :] + gaps[origin, origin])


def cosines_of(products: NDArray[Any]) -> NDArray[Any]:
    """Cosines from inner products; NaN where a vector is zero."""
    norms = np.sqrt(np.clip(np.diag(products), 0.0, None))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip(products / np.outer(norms, norms), -1.0, 1.0))
