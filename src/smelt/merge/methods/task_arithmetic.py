"""Task arithmetic: add the weighted task vectors of the experts to the base. (arXiv:2212.04089)

merged = base + lambda * sum(weight_i * (expert_i - base)). smelt's default method: the largest
study of merged language models finds it the one of six that reliably helps (arXiv:2511.21437).
`lambda` is 1 and weights are equal shares, the mean task vector: it does not grow with the number
of experts, and the paper's tuned scales (0.3 to 0.5 for a few tasks) are of this size. As in
mergekit, `normalize` (divide by the sum of weights) is false by default; the paper has none.

When: the default, for experts that were fine-tuned from the same base.
Evidence: for: the only one of six methods with reliable gains in the largest study of language
  models (arXiv:2511.21437: 4 bases, 12 checkpoints each, 16 benchmarks); against: `lambda` and the
  weights want tuning, and the gain of one more expert falls as 1/number (arXiv:2509.24244).
"""

from smelt.merge import ops
from smelt.merge.parameters import Lambda, Normalize, Weight

needs_base = True
num_experts = (1, None)
no_effect = ("density", "rescale")


def task_arithmetic(
    base: ops.Base,
    experts: ops.Experts,
    *,
    weight: Weight,
    lambda_: Lambda = 1.0,
    normalize: Normalize = False,
) -> ops.Base:
    """Base plus the scaled sum of task vectors."""
    total = sum(weight) if normalize else 1.0
    scale = lambda_ / (total if abs(total) >= 1e-8 else 1.0)
    # As one sum over base and experts, so that nothing is rounded before the end.
    shares = [scale * share for share in weight]
    return ops.weighted_sum(experts, shares, base, 1 - sum(shares))
