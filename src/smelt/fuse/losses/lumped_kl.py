"""Forward KL over the tokens that both vocabularies name, plus one class for everything else.

Exact for the events it compares and mass-preserving: the mass outside the top-k and of tokens that
the pivot lacks meets the student's mass on all tokens that were not named. At most the full KL.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from smelt.fuse.partition import partition, weighted_mean
from smelt.fuse.target import FusedTarget


def lumped_kl(
    student_logits: Float[Tensor, "steps vocab"], target: FusedTarget
) -> Float[Tensor, ""]:
    """sum p log(p / q) in nats, mean over the target's entries by weight."""
    events = partition(student_logits, target)
    gap = torch.special.xlogy(events.p, events.p) - events.p * events.log_q
    # Rounding can leave a sum of -1e-8 at equality; zero is the truth there, with its gradient.
    return weighted_mean(gap.sum(dim=1), target).clamp(min=0)
