"""Iso-C: sum the task vectors and make all their singular values equal. (arXiv:2502.04959)

For a matrix S = sum(t_i) = U diag(s) V^T the merged task vector is mean(s) * U V^T, times `lambda`
(default 1; the paper tunes it on validation data, 1 to 2 for 8 vision tasks). Embeddings, the head
and tensors that are no matrices (also stacks of MoE experts) get the mean task vector, as in the
published ports to language models. Directions that are rounding noise (possible when the sum has
no full rank: LoRA) are left out of U V^T, while the mean is over all min(rows, columns) values.

Memory of each thread: the tensor in all models and 4.5 float64 copies of it.
When: many experts of one small base, as with vision encoders; with language models, measure first.
Evidence: for: best of its time in its paper (CLIP, 8 to 20 tasks). Against: usually no gain over
the base for language models (arXiv:2511.21437).
"""

from collections.abc import Iterator

from smelt.merge import algebra, ops
from smelt.merge.parameters import Lambda

needs_base = True
num_experts = (1, None)
whole = True


def iso_c(base: ops.Base, experts: ops.Experts, *, name: str, lambda_: Lambda = 1.0) -> ops.Base:
    """Base plus the sum of task vectors with a flat spectrum."""
    return algebra.merge_matrix(name, base, experts, lambda_, _flattened)


def _flattened(deltas: Iterator[algebra.Array]) -> algebra.Array:
    parts = algebra.svd(sum(deltas))
    return parts.values.mean() * (parts.left @ parts.right)
