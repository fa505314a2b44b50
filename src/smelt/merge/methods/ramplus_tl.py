"""RAM+: as ram, with more weight on what one agent alone changed. (arXiv:2601.13572)

A weight counts as changed if it moved by more than `epsilon` (1e-5, absolute). What several experts
changed is averaged; what one alone changed is multiplied by 1 + `r` * min(ratio, `alpha`), where
ratio is how many weights that expert changed with others over how many it changed alone: an
expert that shares much loses by averaging, and gets some of it back. r is 0.1, alpha 0.2. One rule,
mergekit's "tensor-local" one: counts are per tensor, where the paper's are over the model.

When: as ram, when experts overlap.
Evidence: for: its authors' agent benchmarks; against: nobody else's yet, and two more parameters.
"""

import numpy as np

from smelt.merge import ops
from smelt.merge.blocks import Blocks
from smelt.merge.parameters import Boost, Ceiling, Least

needs_base = True
num_experts = (1, None)


def statistics(
    tensor: Blocks, *, r: Boost = 0.1, alpha: Ceiling = 0.2, epsilon: Least = 1e-5
) -> list[float]:
    """What changes that an expert made alone are multiplied by."""
    shared, alone = np.zeros(len(tensor.experts)), np.zeros(len(tensor.experts))
    for block in tensor:
        single, several = ops.count_changes(block.base, block.experts, epsilon)
        alone += single
        shared += several
    ratio = np.clip(shared / np.maximum(alone, max(epsilon, 1e-300)), 0, alpha)
    return [float(one) for one in 1 + r * ratio]


def ramplus_tl(
    base: ops.Base, experts: ops.Experts, *, statistics: list[float], epsilon: Least = 1e-5
) -> ops.Base:
    """Base plus changes: shared ones averaged, others boosted."""
    return ops.add_changes(base, experts, epsilon, statistics)
