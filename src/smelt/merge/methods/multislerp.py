"""MultiSLERP: the weighted mean of directions on the sphere, for any number of models. (mergekit)

From a blog post (goddard.blog, "multislerp"): directions of the task vectors (without a base: of
the tensors) are averaged by weight, the mean is put back on the sphere, one step is taken along it
towards the mean of the logarithms, and the result gets the weighted mean norm. A single expert is
returned as it is, whatever its weight. `normalize_weights` (the default) divides by their sum;
`eps` is what counts as no length. One rule, mergekit's. Divergence: where no expert changed a
tensor, the base is returned (mergekit fails for three and more), and where directions cancel or the
weights sum to 0 the recipe is refused.

When: slerp for more than two models.
Evidence: for: a blog post; against: none published, nor any comparison.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.core.errors import UserError
from smelt.merge import ops
from smelt.merge.blocks import Blocks
from smelt.merge.parameters import Switch, Tiny, Weight

needs_base = "optional"
num_experts = (1, None)


def statistics(
    tensor: Blocks, *, weight: Weight, normalize_weights: Switch = True, eps: Tiny = 1e-8
) -> list[float]:
    """The factor of each task vector (or tensor). Raises UserError where there is no mean."""
    if len(weight) == 1:
        return [1.0]
    weights, total = np.asarray(weight), sum(weight)
    if normalize_weights:
        if abs(total) < 1e-8:
            raise UserError("multislerp: weight", "the weights sum to 0", "another sum")
        weights = weights / total
    gram = ops.inner_products(tensor, of_deltas=tensor.base is not None)
    norms = np.sqrt(np.diag(gram))
    if not norms.any():
        return [0.0] * len(weight)
    # Not the factor 1/eps for an unchanged expert: it would only magnify rounding.
    units = np.where(norms > 0, weights / (norms + eps), 0)
    length = _length(units, gram)
    if length < eps:
        if len(weight) == 2:
            return [float(one) for one in weights]
        expected = "other weights: the directions of the experts cancel"
        raise UserError(f"multislerp: {tensor.name}", "no mean direction", expected)
    mean = units / length
    # The mean of u - (u . mean) mean, all as factors of the vectors.
    dots = (gram @ mean) / (norms + eps)
    tangent = units - float(weights @ dots) * mean
    angle = _length(tangent, gram) + eps
    point = mean * math.cos(angle) + tangent * (math.sin(angle) / angle)
    return [float(one) for one in point * float(weights @ norms)]


def _length(factors: NDArray[Any], gram: NDArray[Any]) -> float:
    return math.sqrt(max(0.0, float(factors @ gram @ factors)))


def multislerp(base: ops.Base | None, experts: ops.Experts, *, statistics: list[float]) -> ops.Base:
    """The weighted mean on the sphere of task vectors, or without a base of tensors."""
    return ops.weighted_sum(experts, statistics, base, 1 - sum(statistics))
