"""WUDI: descend to the task vector that interferes least with any expert's. (arXiv:2503.08099)

For a matrix, Adam minimises over t the sum of |(t - t_i) t_i^T|^2 / |t_i|^2, where the task vectors
t_i stand in for the unknown inputs of each expert's layer, from t = sum(t_i). As published: 300
steps at learning rate 1e-5, Adam's usual constants. The rate is absolute: 300 steps move a weight
by about 0.003, and the method depends on stopping there. A weight that arrives earlier goes on
swinging by up to the rate, to a side that rounding decides: so much may differ between machines,
and between processor and accelerator. Embeddings, the head and tensors that are no matrices (also
stacks of MoE experts) get the mean task vector; the authors' code does so, but treats embeddings as
matrices. Task vectors of zero are left out. `start: mean` begins at the mean, where sums of full
fine-tunes are too long; `lambda` (default 1) scales the result. A step is one product of matrices
here, in float64. `swudi` minimises the same in closed form, much faster.

Memory of each thread: the tensor in all models, ten float64 copies of it, a matrix of columns^2.
When: to reproduce WUDI; else `swudi`. LoRA-like or vision experts, no data.
Evidence: for: its authors, vision and language benchmarks, +10.9 % over data-free baselines on
average. Against: no independent study on language models; start and scale need care there.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from smelt.merge import algebra, ops
from smelt.merge.parameters import Lambda, Span

needs_base = True
num_experts = (1, None)
whole = True

Steps = Annotated[float, Span(0.0, 100000.0, 300.0, search_low=50.0, search_high=600.0, whole=True)]
"""Steps of Adam."""

LearningRate = Annotated[float, Span(0.0, 1.0, 1e-5, search_low=1e-6, search_high=1e-4)]
"""Size of Adam's steps, in units of the weights."""

_MEAN, _SQUARE, _EPSILON = 0.9, 0.999, 1e-8


def wudi(
    base: ops.Base,
    experts: ops.Experts,
    *,
    name: str,
    steps: Steps,
    learning_rate: LearningRate,
    start: Literal["sum", "mean"] = "sum",
    lambda_: Lambda = 1.0,
) -> ops.Base:
    """Base plus the task vector after `steps` of descent."""
    divisor = len(experts) if start == "mean" else 1

    def merge(deltas: Iterator[algebra.Array]) -> algebra.Array:
        point, normal, right, count = ops.wide(base) * 0.0, 0.0, 0.0, 0
        for delta in deltas:
            square = float((delta * delta).sum())
            if square > 0:
                count += 1
                point += delta
                normal = normal + delta.T @ delta / square
                right = right + algebra.cube(delta) / square
        if count <= 1 and divisor == 1:
            return point  # the minimum; rounding alone would set Adam swinging about it
        point /= divisor
        return _descend(point, normal, right, round(steps), learning_rate) if count else point

    return algebra.merge_matrix(name, base, experts, lambda_, merge)


def _descend(
    point: algebra.Array, normal: algebra.Array, right: algebra.Array, steps: int, rate: float
) -> algebra.Array:
    """Adam along the gradient 2 (point @ normal - right); the point is moved in place."""
    sqrt = algebra.library(point).sqrt
    mean, square = point * 0.0, point * 0.0
    for step in range(1, steps + 1):
        gradient = point @ normal
        gradient -= right
        gradient *= 2
        mean *= _MEAN
        mean += (1 - _MEAN) * gradient
        gradient *= gradient
        gradient *= 1 - _SQUARE
        square *= _SQUARE
        square += gradient
        root = sqrt(square)
        root /= (1 - _SQUARE**step) ** 0.5
        root += _EPSILON
        move = mean / root
        move *= rate / (1 - _MEAN**step)
        point -= move
    return point
