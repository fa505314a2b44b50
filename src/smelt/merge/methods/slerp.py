"""Slerp: go from one model to another along the arc between their directions. (Shoemake 1985)

merged = sin((1-t)*omega)/sin(omega) * a + sin(t*omega)/sin(omega) * b, where omega is the angle
between the two flattened tensors. `t` defaults to 0.5, halfway. There is no paper on slerp for
language models; this is mergekit's rule: norms are not restored, and above |cos| = 0.9995 (also
for opposite tensors) it interpolates linearly. The base model, if there is one, is the first of the
two models, which `t: 0` gives. Divergence: the angle is computed in float64.
"""

import math

from jaxtyping import Float
from torch import Tensor

from smelt.merge import ops
from smelt.merge.parameters import T

needs_base = False
num_experts = (2, 2)
base_is_expert = True  # a base model that is named takes the first of the two places

NEARLY_PARALLEL = 0.9995


def slerp(
    base: Float[Tensor, "*shape"] | None, experts: list[Float[Tensor, "*shape"]], *, t: T
) -> Float[Tensor, "*shape"]:
    """The point `t` (0 to 1) between two tensors; `base` is not used."""
    first, second = experts
    norms = math.sqrt(ops.dot(first, first)) * math.sqrt(ops.dot(second, second))
    cosine = ops.dot(first, second) / norms if norms > 0 else 1.0
    if abs(cosine) > NEARLY_PARALLEL:
        return ops.weighted_sum(experts, [1 - t, t])
    omega = math.acos(cosine)
    shares = [math.sin((1 - t) * omega) / math.sin(omega), math.sin(t * omega) / math.sin(omega)]
    return ops.weighted_sum(experts, shares)
