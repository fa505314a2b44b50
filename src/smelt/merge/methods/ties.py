"""TIES: trim each task vector, elect one sign per weight, average what agrees. (arXiv:2306.01708)

Trim keeps the `density` largest share of each task vector; the sign with more weighted mass is
elected per element (a tie counts as +); the task vectors with that sign are averaged, scaled by
`lambda` and added to the base. Density defaults to 1, no trimming (the paper keeps 0.2; a default
that discards four fifths should be asked for). Differences to the paper, all as in mergekit: the
trim is per tensor, not over the whole model; the mean is weighted (equal weights give the paper's),
and without `normalize` it is a sum. Divergence from mergekit: elements that equal the threshold are
all kept, as in the authors' code, where mergekit keeps an arbitrary subset; density 0 keeps none.
"""

from jaxtyping import Float
from torch import Tensor

from smelt.merge import ops
from smelt.merge.parameters import Density, Lambda, Normalize, Weight

needs_base = True
num_experts = (1, None)


def ties(
    base: Float[Tensor, "*shape"],
    experts: list[Float[Tensor, "*shape"]],
    *,
    weight: Weight,
    density: Density,
    lambda_: Lambda = 1.0,
    normalize: Normalize = True,
) -> Float[Tensor, "*shape"]:
    """Base plus the trimmed, sign-consistent mean of task vectors, for one tensor."""
    deltas = [
        ops.trim(delta, share)
        for delta, share in zip(ops.deltas_of(base, experts), density, strict=True)
    ]
    sign = ops.elect_sign([delta * share for delta, share in zip(deltas, weight, strict=True)])
    merged = ops.mean_of_agreeing(deltas, weight, sign, normalize=normalize)
    return base + lambda_ * merged
