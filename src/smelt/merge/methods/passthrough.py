"""Passthrough: copy one model's tensors, to stack slices of layers into a deeper model. (mergekit)

merged = scale * expert, with scale 1. Depth up-scaling by stacking is described in arXiv:2312.15166
(SOLAR), which trains on afterwards; without that a stack is usually worse than its parts. The rule
is mergekit's without divergence: with a filter, `scale` 0 turns a block's output off.

When: stacking layers, or copying a model with some tensors scaled.
Evidence: for: SOLAR, after continued training; against: stacks lose quality unless trained on.
"""

from smelt.merge import ops
from smelt.merge.parameters import Scale

needs_base = False
num_experts = (1, 1)


def passthrough(base: ops.Base | None, experts: ops.Experts, *, scale: Scale) -> ops.Base:
    """The one expert times `scale`; `base` is not used."""
    return experts[0] * scale[0]
