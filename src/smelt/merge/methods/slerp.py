"""Slerp: go from one model to another along the arc between their directions. (Shoemake 1985)

merged = sin((1-t)*omega)/sin(omega) * a + sin(t*omega)/sin(omega) * b, where omega is the angle
between the two flattened tensors. `t` defaults to 0.5, halfway. There is no paper on slerp for
language models; this is mergekit's rule: norms are not restored, above |cos| = 0.9995 (also for
opposite tensors) it interpolates linearly, and a tensor of zeros counts as orthogonal. The base
model, if there is one, is the first of the two models, which `t: 0` gives. Divergence: the angle
is computed in float64.

When: two models of one family, with `t` as a list over depth.
Evidence: for: popular on leaderboards; against: no controlled study, and fine-tunes of one base
  have a cosine above 0.9995 in most tensors, where it is linear interpolation.
"""

import math
from typing import Any

from smelt.merge import ops
from smelt.merge.blocks import Blocks
from smelt.merge.parameters import T

needs_base = False
num_experts = (2, 2)
base_is_expert = True  # a base model that is named takes the first of the two places

NEARLY_PARALLEL = 0.9995
NO_LENGTH = 1e-8


def statistics(tensor: Blocks) -> Any:
    """Inner products of the two tensors, (2, 2) in float64."""
    return ops.inner_products(tensor, of_deltas=False)


def slerp(base: ops.Base | None, experts: ops.Experts, *, statistics: Any, t: T) -> ops.Base:
    """The point `t` (0 the first, 1 the second) of two tensors; `base` is not used."""
    norms = [math.sqrt(statistics[place, place]) for place in (0, 1)]
    lengths = [norm if norm > NO_LENGTH else 1.0 for norm in norms]
    cosine = max(-1.0, min(1.0, statistics[0, 1] / lengths[0] / lengths[1]))
    if abs(cosine) > NEARLY_PARALLEL:
        return ops.weighted_sum(experts, [1 - t, t])
    omega = math.acos(cosine)
    shares = [math.sin((1 - t) * omega) / math.sin(omega), math.sin(t * omega) / math.sin(omega)]
    return ops.weighted_sum(experts, shares)
