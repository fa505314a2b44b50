"""TSV-M: keep each expert's main singular directions and make them orthogonal. (arXiv:2412.00081)

Of each task vector t_i = U_i diag(s_i) V_i^T of a matrix the first r/N directions stay, r being the
smaller side and N the number of experts. The kept U_i stand side by side in U, the V_i in V; both
are replaced by their nearest orthonormal matrices (the Procrustes solution), and the merged task
vector is U diag(s) V^T, times `lambda` (default 1, as in the paper). Embeddings, the head, tensors
that are no matrices (also stacks of MoE experts) and matrices with a side below N get the mean task
vector, as in the published ports to language models. Directions that are rounding noise (of LoRA
experts; directions that experts share exactly) are left out. One expert comes back unchanged; two
equal ones come back at half their rank: that is the method.

Memory of each thread: the tensor in all models and 6.5 float64 copies of it. Time: N + 2 singular
value decompositions of each matrix.
When: many experts of one small base, as with vision encoders; with language models, measure first.
Evidence: for: its authors, CLIP with 8, 14 and 20 tasks, up to 15 points over task arithmetic.
Against: usually no gain over the base for language models (arXiv:2511.21437).
"""

from collections.abc import Iterator

from smelt.merge import algebra, ops
from smelt.merge.parameters import Lambda

needs_base = True
num_experts = (1, None)
whole = True


def tsv_m(base: ops.Base, experts: ops.Experts, *, name: str, lambda_: Lambda = 1.0) -> ops.Base:
    """Base plus the task vectors' main directions without their overlap."""
    count, smaller = len(experts), min(base.shape, default=0)

    def merge(deltas: Iterator[algebra.Array]) -> algebra.Array:
        if count > smaller:
            return sum(deltas) / count
        parts = [algebra.svd(delta, most=smaller // count) for delta in deltas]
        xp = algebra.library(base)
        strengths = xp.concatenate([one.values[: len(one.right)] for one in parts])
        if len(strengths) == 0:
            return ops.wide(base) * 0.0
        left = algebra.polar(xp.concatenate([one.left for one in parts], axis=1))
        right = algebra.polar(xp.concatenate([one.right for one in parts]))
        return (left * strengths) @ right

    return algebra.merge_matrix(name, base, experts, lambda_, merge)
