"""Linear: weighted average of the experts, a "model soup". (arXiv:2203.05482)

merged = sum(weight_i * expert_i) / sum(weight_i). The weights default to equal shares, the uniform
soup of the paper, whose greedy soup is a search over weights in {0, 1} (see `smelt search`).
As in mergekit, `normalize` is true by default; without it the weights are used as they are, so that
weights (2, -1) extrapolate. Divergence: a base model that is not also listed under `models` gives
config and tokenizer only, while mergekit silently adds it as one more ordinary input.

When: checkpoints of one training run, or fine-tunes of one base for the same task.
Evidence: for: its paper (fine-tunes of one model on one task); against: experts for different
  tasks dilute each other, task arithmetic with a tuned lambda does better.
"""

from smelt.core.errors import UserError
from smelt.merge import ops
from smelt.merge.parameters import Normalize, Weight

needs_base = False
num_experts = (1, None)


def linear(
    base: ops.Base | None,
    experts: ops.Experts,
    *,
    weight: Weight,
    normalize: Normalize = True,
) -> ops.Base:
    """Weighted average; `base` is not used. Raises UserError if weights sum to 0."""
    total = sum(weight) if normalize else 1.0
    if abs(total) < 1e-8:
        expected = "another sum, or normalize: false"
        raise UserError("linear: weight", "the weights sum to 0", expected)
    return ops.weighted_sum(experts, [share / total for share in weight])
