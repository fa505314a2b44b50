"""Fusion losses against dense float64 formulas written out here."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from smelt.fuse.capture import signal
from smelt.fuse.losses.lumped_jsd import lumped_jsd
from smelt.fuse.losses.lumped_kl import lumped_kl
from smelt.fuse.losses.uld import uld
from smelt.fuse.target import FusedTarget

VOCAB, STEPS = 17, 4
NONE = float("-inf")


def random_logits(seed: int, scale: float = 2.0) -> Tensor:
    return torch.randn(STEPS, VOCAB, generator=torch.Generator().manual_seed(seed)) * scale


def captured(logits: Tensor, k: int) -> FusedTarget:
    found = signal(logits, torch.zeros(len(logits)).long(), k)
    rows = torch.arange(len(logits))
    return FusedTarget(rows, found["ids"], found["logp"], found["rest"], torch.ones(len(rows)))


def hand_made() -> FusedTarget:
    """Rows out of order, one row twice, padding, and mass on a token without a partner."""
    p = torch.tensor([[0.5, 0.3, 0.1], [0.9, 0.05, 0.0], [0.2, 0.2, 0.2]], dtype=torch.float64)
    return FusedTarget(
        torch.tensor([2, 0, 2]),
        torch.tensor([[3, 7, -1], [0, -1, -1], [16, 0, 5]]),
        torch.where(p > 0, p, 0).log().float(),
        (1 - p.sum(1)).float(),
        torch.tensor([1.0, 0.25, 0.5]),
    )


def events(logits: Tensor, target: FusedTarget) -> list[tuple[Tensor, Tensor, float]]:
    """(p, q, weight) of each entry over named tokens and one lump, dense and in float64."""
    q_all = logits.double().softmax(-1)
    found = []
    for n in range(len(target)):
        named = [
            (i, x.exp())
            for i, x in zip(target.ids[n], target.logp[n].double(), strict=True)
            if i >= 0
        ]
        p = torch.stack([x for _, x in named])
        q = torch.stack([q_all[target.rows[n], i] for i, _ in named])
        lump = torch.stack([1 - p.sum(), 1 - q.sum()])
        found.append((torch.cat([p, lump[:1]]), torch.cat([q, lump[1:]]), float(target.weight[n])))
    return found


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum()


def mean(pairs: list[tuple[Tensor, float]]) -> float:
    return float(sum(value * weight for value, weight in pairs) / sum(w for _, w in pairs))


@pytest.mark.parametrize("seed", range(5))
def test_lumped_kl_is_the_dense_formula(seed: int) -> None:
    logits, target = random_logits(seed), hand_made()
    wanted = mean([(kl(p, q), weight) for p, q, weight in events(logits, target)])
    assert float(lumped_kl(logits, target)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_lumped_jsd_is_the_dense_formula(share: float) -> None:
    logits, target = random_logits(3), hand_made()
    pairs = []
    for p, q, weight in events(logits, target):
        m = share * p + (1 - share) * q
        pairs.append((share * kl(p, m) + (1 - share) * kl(q, m), weight))
    assert float(lumped_jsd(logits, target, share=share)) == pytest.approx(mean(pairs), rel=1e-5)


def test_uld_is_the_dense_formula() -> None:
    logits, target = random_logits(4), hand_made()
    pairs = []
    for n in range(len(target)):
        p = [float(x.exp()) for x in target.logp[n] if x > NONE]
        q = logits[target.rows[n]].double().softmax(-1).sort(descending=True).values[: len(p)]
        gap = (torch.tensor(sorted(p, reverse=True)) - q).abs().sum()
        rest = (float(target.rest[n]) - (1 - q.sum())).abs()
        pairs.append((gap + rest, float(target.weight[n])))
    assert float(uld(logits, target)) == pytest.approx(mean(pairs), rel=1e-5)


def test_lumped_kl_gradient_is_the_analytic_one() -> None:
    """q_j - p_j for named tokens, q_j (1 - r / q_rest) for the others."""
    student, target = random_logits(1).requires_grad_(), captured(random_logits(2), 5)
    (lumped_kl(student, target) * STEPS).backward()
    q = student.detach().double().softmax(-1)
    named = torch.zeros(STEPS, VOCAB).scatter(1, target.ids, 1.0).bool()
    outside = (q * ~named).sum(1, keepdim=True)
    p = torch.zeros(STEPS, VOCAB).double().scatter(1, target.ids, target.logp.double().exp())
    wanted = torch.where(named, q - p, q * (1 - target.rest.double()[:, None] / outside))
    assert torch.allclose(student.grad.double(), wanted, atol=1e-6)


def test_rest_keeps_its_gradient_when_the_student_is_certain() -> None:
    """1 - sum q is 0 in fp32 here; the mass that belongs to the rest must still pull."""
    logits = torch.zeros(1, VOCAB)
    logits[0, 0] = 40.0
    student = logits.requires_grad_()
    ids, logp = torch.tensor([[0]]), torch.tensor([[0.5]]).log()
    target = FusedTarget(torch.tensor([0]), ids, logp, torch.tensor([0.5]), torch.ones(1))
    loss = lumped_kl(student, target)
    loss.backward()
    outside = 40.0 - torch.tensor(16.0).log()
    assert float(loss.detach()) == pytest.approx(float(0.5 * outside) - 0.6931472, rel=1e-5)
    assert float(student.grad[0, 0]) == pytest.approx(0.5, rel=1e-5)
    assert torch.allclose(student.grad[0, 1:], torch.tensor(-0.5 / 16), rtol=1e-4)


def test_below_full_kl_and_growing_with_k() -> None:
    student, source = random_logits(1), random_logits(2)
    full = kl(source.double().softmax(-1), student.double().softmax(-1)) / STEPS
    values = [float(lumped_kl(student, captured(source, k))) for k in range(1, VOCAB + 1)]
    assert all(a <= b + 1e-6 for a, b in pairwise(values))
    assert values[-1] == pytest.approx(float(full), rel=1e-5)


def test_jsd_is_bounded_where_kl_is_not() -> None:
    source, student = torch.full((1, VOCAB), -50.0), torch.full((1, VOCAB), -50.0)
    source[0, 1], student[0, 2] = 50.0, 50.0
    target = captured(source, 3)
    assert float(lumped_kl(student, target)) > 50
    assert float(lumped_jsd(student, target)) <= 0.6931472 + 1e-6


def test_uld_is_blind_to_identity_and_the_others_are_not() -> None:
    logits = random_logits(5)
    target = captured(logits, 5)
    permuted = logits[:, torch.randperm(VOCAB, generator=torch.Generator().manual_seed(0))]
    assert float(uld(permuted, target)) < 1e-6
    assert float(lumped_kl(permuted, target)) > 0.1
    assert float(lumped_jsd(permuted, target)) > 0.02


def test_several_entries_at_a_step_act_like_their_mixture() -> None:
    """The gradient of two entries with weights w is that of the dense mixture (avg_ce)."""
    a, b = captured(random_logits(1), VOCAB), captured(random_logits(2), VOCAB)
    both = FusedTarget(
        torch.cat([a.rows, b.rows]),
        torch.cat([a.ids, b.ids]),
        torch.cat([a.logp, b.logp]),
        torch.cat([a.rest, b.rest]),
        torch.cat([0.3 * a.weight, 0.7 * b.weight]),
    )
    student = random_logits(3).requires_grad_()
    lumped_kl(student, both).backward()
    mixture = 0.3 * random_logits(1).softmax(-1) + 0.7 * random_logits(2).softmax(-1)
    wanted = (student.detach().softmax(-1) - mixture) / STEPS
    assert torch.allclose(student.grad, wanted, atol=1e-6)
