"""TIES: trim each task vector, elect one sign per weight, average what agrees. (arXiv:2306.01708)

Trim keeps the `density` largest share of each task vector; the sign with more weighted mass is
elected per element (a tie counts as +); the task vectors with that sign are averaged, scaled by
`lambda` and added to the base. Density defaults to 1, no trimming (the paper keeps 0.2; a default
that discards four fifths should be asked for). Differences to the paper, all as in mergekit: the
trim is per tensor, not over the whole model; the mean is weighted (equal weights give the paper's),
and without `normalize` it is a sum. Divergence from mergekit: elements that equal the threshold are
all kept, as in the authors' code, where mergekit keeps an arbitrary subset; density 0 keeps none.
"""

from smelt.merge import ops
from smelt.merge.blocks import Blocks
from smelt.merge.parameters import Density, Lambda, Normalize, Weight

needs_base = True
num_experts = (1, None)


def statistics(tensor: Blocks, *, density: Density) -> list[float]:
    """The magnitude from which on each task vector is kept."""
    return ops.thresholds(tensor, density)


def ties(
    base: ops.Base,
    experts: ops.Experts,
    *,
    statistics: list[float],
    weight: Weight,
    lambda_: Lambda = 1.0,
    normalize: Normalize = True,
) -> ops.Base:
    """Base plus the trimmed, sign-consistent mean of task vectors."""
    deltas = ops.keep_between(ops.deltas_of(base, experts), statistics)
    return ops.add_deltas(base, deltas, weight, scale=lambda_, elect=True, normalize=normalize)
