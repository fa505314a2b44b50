"""Model Stock: from the angle between experts, how far to go from base to mean. (arXiv:2403.19522)

merged = base + t * mean(expert - base) with t = n*c / (1 + (n-1)*c), where n is the number of
experts and c the mean cosine between their task vectors: whatever experts do not share counts as
noise around a centre, and the formula gives the point nearest to that centre. c is per tensor;
`filter_wise` takes it per row. t is not clamped: opposed experts extrapolate.
`rule: mergekit` (the default: recipes written for it give the same model) divides by at least 1e-6
in the cosine, which shrinks it for small tensors whose task vectors are shorter than 0.001;
`rule: paper` does not, so that the scale of the task vectors does not matter. For ordinary weight
matrices both are the same.

When: a few fine-tunes of the same task from one base, with different seeds.
Evidence: for: its paper, CLIP on ImageNet: two models come near a soup of many; against: experts of
  different tasks are nearly orthogonal, so that t is near 0 and the base comes back
  (arXiv:2511.21437).
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smelt.merge import ops
from smelt.merge.blocks import Blocks
from smelt.merge.parameters import Switch

needs_base = True
num_experts = (2, None)


def statistics(tensor: Blocks, *, filter_wise: Switch = False) -> Any:
    """Inner products of the task vectors in float64; None when each row has its own."""
    return None if filter_wise else ops.inner_products(tensor, of_deltas=True)[None]


def _ratios(grams: NDArray[Any], rule: str) -> NDArray[Any]:
    """t for each of (groups, experts, experts) inner products."""
    count = grams.shape[-1]
    one, other = np.triu_indices(count, 1)
    norms = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))
    products = np.maximum(norms[:, one] * norms[:, other], 1e-6 if rule == "mergekit" else 0.0)
    safe = np.where(products > 0, products, 1.0)
    cosine = np.clip(grams[:, one, other] / safe, -1, 1).mean(axis=1)
    divisor = 1 + (count - 1) * cosine
    singular = np.abs(divisor) < 1e-6
    return np.asarray(np.where(singular, 0, count * cosine / np.where(singular, 1, divisor)))


def model_stock(
    base: ops.Base,
    experts: ops.Experts,
    *,
    statistics: Any,
    rule: Literal["mergekit", "paper"] = "mergekit",
) -> ops.Base:
    """Base plus t times the mean task vector."""
    count = experts.shape[0]
    if statistics is not None:
        t = float(_ratios(statistics, rule)[0])
        return ops.weighted_sum(experts, [t / count] * count, base, 1 - t)
    shares = _ratios(ops.row_grams(experts, base), rule) / count
    return ops.weighted_places(experts, np.stack([shares[:, None]] * count), base)
