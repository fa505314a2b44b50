"""RegMean: the linear layer nearest to every expert's outputs on its inputs. (arXiv:2212.09849)

For weights W_i (outputs x inputs) and Gram matrices G_i = X_i^T X_i / tokens of the experts' inputs
to the layer, the merged W minimises sum_i w_i * |X_i W^T - X_i W_i^T|^2 / tokens_i, hence
W = (sum w_i W_i G_i)(sum w_i G_i)^-1. As in the paper the entries of G_i off the diagonal are first
multiplied by `off_diagonal`, its alpha: 0.9, best for most of its models (0.1 for T5); 1 is the
plain least squares and needs many more tokens than inputs. Input directions that no expert uses
get the weighted mean, as do embeddings, heads (too large to be taken as a whole) and tensors
without a Gram matrix in every file (norms, biases). `weight` (0 or more) is 1/N; the paper has
none. The base is not used. Weights stored as inputs x outputs (Conv1D of GPT-2) are not supported.

Memory of each thread: the tensor and its Gram matrices in all models, 4.5 float64 copies of the
tensor and 2.5 of a Gram matrix.
When: some hundred unlabelled examples per expert; `smelt statistics` reads them, with kind gram.
Evidence: for: its paper, above simple and Fisher averaging on GLUE tasks; one of the eight methods
of MergeBench (arXiv:2505.10833). Against: a forward pass per expert, a file of inputs^2 per layer,
and off_diagonal has to be tuned.
"""

from typing import Annotated, Any

from smelt.checkpoint.layout import block_of
from smelt.core.errors import UserError
from smelt.core.one_thread import one_thread
from smelt.merge import algebra, ops
from smelt.merge.parameters import Span, Weight

needs_base = False
num_experts = (1, None)
whole = True
extra = "gram"

OffDiagonal = Annotated[float, Span(0.0, 1.0, 0.9, search_low=0.0, search_high=1.0)]
"""Factor on the Gram matrices off their diagonals."""

_DEFINITE = 0.999  # up to this off_diagonal no eigenvalue of the scaled matrix is below 0.001


def regmean(
    base: ops.Base | None,
    experts: ops.Experts,
    *,
    extra: list[Any],
    name: str,
    weight: Weight,
    off_diagonal: OffDiagonal,
) -> ops.Base:
    """The regression mean; `extra`: a Gram matrix (inputs, inputs) or None per expert.

    Raises UserError for weights without a positive sum and for Gram matrices of other layers.
    """
    shares = algebra.shares("regmean: weight", weight)
    apart = block_of(name) in ("embedding", "head")
    if apart or len(experts.shape) != 3 or any(one is None for one in extra):
        return ops.weighted_sum(experts, shares)
    inputs, xp = experts.shape[2], algebra.library(experts)
    for gram in extra:
        if tuple(gram.shape) != (inputs, inputs) or not xp.isfinite(gram).all():
            raise UserError(
                "regmean", f"a Gram matrix {list(gram.shape)} for {inputs} inputs, or no numbers",
                f"finite numbers {[inputs, inputs]}", "measure again with smelt statistics",
            )  # fmt: skip
    if not xp.isfinite(experts).all():
        return ops.weighted_sum(experts, shares)  # the engine refuses it with the file's name
    with one_thread():
        mean = sum(share * ops.wide(one) for share, one in zip(shares, experts, strict=True))
        total, pull = 0.0, 0.0
        for share, expert, gram in zip(shares, experts, extra, strict=True):
            shrunk = ops.wide(gram) * share
            diagonal = shrunk.reshape(-1)[:: inputs + 1]
            kept = diagonal * 1.0
            shrunk *= off_diagonal
            diagonal[:] = kept
            pull = pull + (ops.wide(expert) - mean) @ shrunk
            total = total + shrunk
        # Statistics are rounded to float32: below that an eigenvalue is none.
        rounding = 2.0**-52 if experts.dtype == xp.float64 else 2.0**-23
        definite = off_diagonal <= _DEFINITE
        moved = algebra.divide(pull, total, definite=definite, rounding=rounding)
        return ops.like(mean + moved, experts)
