"""NearSwap: take the other model's weight where both are near, else step towards it. (mergekit)

merged = x * expert + (1 - x) * base with x = t / |base - expert|, at most 1: weights that differ by
no more than `t` become the expert's, all others move by `t` towards it. From the model card of
QuartetAnemoi-70B, which used 1e-4; one rule, mergekit's. `t` has no default: it is a distance in
units of the weights, and what is near depends on the models.

When: tinting a base with another model of its family, without its large differences.
Evidence: for: model cards; against: nothing measured, for or against.
"""

from smelt.core.errors import UserError
from smelt.merge import ops
from smelt.merge.parameters import Distance

needs_base = True
num_experts = (1, 1)


def nearswap(base: ops.Base, experts: ops.Experts, *, t: Distance) -> ops.Base:
    """The base, moved by at most `t` towards the expert. Raises UserError without `t`."""
    if t is None:
        expected = "a distance in units of the weights, such as 1e-4"
        raise UserError("nearswap: parameters.t", "not set", expected)
    start, end = ops.wide(base), ops.wide(experts[0])
    share = (t / abs(start - end).clip(min=1e-6)).clip(max=1.0)
    return ops.like(end * share + start * (1 - share), base)
