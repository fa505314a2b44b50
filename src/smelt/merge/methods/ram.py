"""RAM: add what one agent changed whole, average what several did. (arXiv:2601.13572)

A weight counts as changed by an expert if it moved by more than `epsilon` (1e-5, absolute).
merged = base + the sum of changes / the number of experts that changed this weight. Sparse updates
of different experts are thus not diluted by those that left a weight alone. No weights. One rule:
paper and mergekit agree.

When: agents trained by reinforcement learning from one base, whose updates are sparse and disjoint.
Evidence: for: its authors' agent benchmarks; against: nobody else's yet; supervised fine-tunes in
  bfloat16 change nearly every weight, and then it is nearly the average.
"""

from smelt.merge import ops
from smelt.merge.parameters import Least

needs_base = True
num_experts = (1, None)


def ram(base: ops.Base, experts: ops.Experts, *, epsilon: Least = 1e-5) -> ops.Base:
    """Base plus changes, averaged over the experts that made them."""
    return ops.add_changes(base, experts, epsilon, [1.0] * experts.shape[0])
