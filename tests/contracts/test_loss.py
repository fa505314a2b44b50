"""What every fusion loss must do; the exact values are in tests/fuse/test_losses.py."""

from typing import Any

import pytest
import torch

from smelt.core import registry
from smelt.fuse.capture import signal
from smelt.fuse.target import FusedTarget, join

pytestmark = pytest.mark.parametrize("name", registry.names("loss"))

VOCAB, STEPS, K = 23, 6, 5


def target_of(logits: torch.Tensor, k: int = K) -> FusedTarget:
    """The target that a store of these logits gives to a student with the same vocabulary."""
    found = signal(logits, torch.zeros(len(logits)).long(), k)
    rows = torch.arange(len(logits))
    return FusedTarget(rows, found["ids"], found["logp"], found["rest"], torch.ones(len(rows)))


def logits_of(seed: int, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(STEPS, VOCAB, generator=torch.Generator().manual_seed(seed)) * scale


def loss_and_gradient(loss: Any, logits: torch.Tensor, target: FusedTarget) -> Any:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    value.backward()
    return value.detach(), leaf.grad


@pytest.mark.parametrize("k", [1, K, VOCAB])
def test_zero_with_zero_gradient_when_equal(name: str, k: int) -> None:
    logits = logits_of(0)
    value, gradient = loss_and_gradient(registry.load("loss", name), logits, target_of(logits, k))
    assert 0 <= value < 1e-6
    if name != "uld":  # L1 has a kink at equality
        assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_positive_when_different(name: str, seed: int) -> None:
    value = registry.load("loss", name)(logits_of(seed), target_of(logits_of(seed + 50)))
    assert value > 1e-2


def test_falls_along_its_gradient(name: str) -> None:
    loss, logits, target = registry.load("loss", name), logits_of(1), target_of(logits_of(2))
    value, gradient = loss_and_gradient(loss, logits, target)
    assert loss(logits - 0.1 * gradient / gradient.norm(), target) < value


def test_padding_and_weightless_entries_have_no_influence(name: str) -> None:
    loss, logits, target = registry.load("loss", name), logits_of(3), target_of(logits_of(4))
    wide = target_of(logits_of(9), K + 3)
    off = FusedTarget(wide.rows, wide.ids, wide.logp, wide.rest, torch.zeros(STEPS))
    empty = FusedTarget(
        torch.tensor([0]),
        torch.full((1, 2), -1),
        torch.full((1, 2), float("-inf")),
        torch.zeros(1),
        torch.zeros(1),
    )
    padded = join([target, off, empty], [0, 0, 0])
    value, gradient = loss_and_gradient(loss, logits, target)
    same, same_gradient = loss_and_gradient(loss, logits, padded)
    assert torch.allclose(value, same, rtol=0, atol=1e-6)
    assert torch.allclose(gradient, same_gradient, rtol=0, atol=1e-6)


def test_rows_without_a_target_have_no_gradient(name: str) -> None:
    target = target_of(logits_of(4))
    some = FusedTarget(*(getattr(target, field)[[1, 4]] for field in target.__dataclass_fields__))
    _, gradient = loss_and_gradient(registry.load("loss", name), logits_of(3), some)
    assert gradient[[1, 4]].abs().sum(dim=1).min() > 0
    assert gradient[[0, 2, 3, 5]].abs().max() == 0


def test_nothing_to_learn_is_zero(name: str) -> None:
    value, gradient = loss_and_gradient(registry.load("loss", name), logits_of(0), join([], []))
    assert value == 0
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_finite_gradients_in_bf16(name: str, scale: float) -> None:
    logits = logits_of(5, scale).bfloat16()
    value, gradient = loss_and_gradient(
        registry.load("loss", name), logits, target_of(logits_of(6, scale))
    )
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert gradient.dtype == torch.bfloat16


def test_weights_weigh(name: str) -> None:
    loss, logits, target = registry.load("loss", name), logits_of(7), target_of(logits_of(8))
    single = [
        loss(logits, FusedTarget(*(getattr(target, f)[[i]] for f in target.__dataclass_fields__)))
        for i in range(STEPS)
    ]
    weight = torch.arange(1.0, STEPS + 1)
    whole = loss(logits, FusedTarget(target.rows, target.ids, target.logp, target.rest, weight))
    assert torch.allclose(whole, (torch.stack(single) * weight).sum() / weight.sum(), atol=1e-6)
