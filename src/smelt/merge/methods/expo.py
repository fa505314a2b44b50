"""ExPO: go on beyond an aligned model, away from the model it was trained from. (arXiv:2404.16792)

merged = expert + alpha * (expert - base): the base is the weaker model (the SFT checkpoint), the
one expert the stronger that was aligned from it (DPO, RLHF). Every tensor. `alpha` defaults to 0.3;
it has no value that fits all: the paper searches it on a development set with a reward model, and
its published models use 0.1 to 0.5. Alpha 0 gives the expert.

When: sharpening a preference-tuned model against its own SFT checkpoint, alpha by `smelt search`.
Evidence: for: its authors, models of 1.8B to 70B on AlpacaEval 2 and MT-Bench. Against: these
judges reward length and style; a large alpha breaks models; not meant for SFT task vectors.
"""

from typing import Annotated

from smelt.merge import ops
from smelt.merge.parameters import Span

needs_base = True
num_experts = (1, 1)

Alpha = Annotated[float, Span(0.0, 100.0, 0.3, search_low=0.0, search_high=1.0)]
"""How far to go beyond the expert, as a share of its distance from the base."""


def expo(base: ops.Base, experts: ops.Experts, *, alpha: Alpha) -> ops.Base:
    """The expert moved away from the base by `alpha` times their difference."""
    return ops.weighted_sum(experts, [1 + alpha], base, -alpha)
