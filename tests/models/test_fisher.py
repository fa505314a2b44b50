"""Fisher diagonals against plain loops over rows and labels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from smelt.checkpoint.reader import Checkpoint
from smelt.core import progress
from smelt.models.examples import Example
from smelt.models.fisher import fisher
from smelt.models.load import load_model
from tests.models.measured import ROWS, assert_close, ids_of, statistics_of


@pytest.mark.parametrize("rows", [ROWS, ROWS[2:3]])
def test_fisher_of_the_data_is_the_plain_loop(
    tied: Path, tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    """One backward pass for each row; only responses count where there is a prompt."""
    found = statistics_of(tied, tmp_path / "out", "fisher", rows, labels="data")
    model = load_model(tied)
    squares = {name: torch.zeros_like(p).double() for name, p in model.named_parameters()}
    num_tokens = 0
    for prompt, text in rows:
        ids, head = ids_of(tied, prompt, text)
        first = max(1, head)
        model.zero_grad()
        logits = model(input_ids=torch.tensor([ids])).logits[0, first - 1 : -1]
        wanted = torch.tensor(ids[first:])
        torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            squares[name] += parameter.grad.double() ** 2
        num_tokens += len(wanted)
    assert found.description.tokens == num_tokens
    assert found.names() == sorted(squares) == Checkpoint.open(tied).names()
    for name, total in squares.items():
        assert_close(found.array(name), total / num_tokens, 1e-5)


def tiny() -> tuple[PreTrainedModel, list[Example]]:
    """A network of seven words, and two texts that it does not expect."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, initializer_range=0.4,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train(False)
    return model, [Example("0:0", [1, 2, 3, 6], [3, 6, 0]), Example("1:0", [4, 4], [5, 5])]


def exact_fisher(model: PreTrainedModel, examples: list[Example]) -> torch.Tensor:
    """Mean over positions of sum_v p(v) (d log p(v))^2: every label of every position."""
    parameters = list(model.parameters())
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    count = 0
    for example in examples:
        logits = model(input_ids=torch.tensor([example.inputs])).logits[0, -len(example.targets) :]
        for row in logits.log_softmax(-1):
            count += 1
            for value in row:
                grads = torch.autograd.grad(value, parameters, retain_graph=True)
                flat = torch.cat([g.flatten() for g in grads]).double()
                total += value.detach().exp().double() * flat**2
    return total / count


def test_sampled_fisher_estimates_the_expectation_over_the_vocabulary() -> None:
    model, examples = tiny()
    expected = exact_fisher(model, examples)
    parameters = list(model.parameters())

    def estimate(**options: Any) -> torch.Tensor:
        with progress.Bar("test", 1) as bar:
            parts = fisher(model, parameters, examples, bar, **options)
        return torch.cat([part.flatten() for part in parts])

    sampled = estimate(draws=1500)
    big = expected > expected.quantile(0.5)
    assert float(((sampled - expected).abs() / expected)[big].mean()) < 0.06
    assert float(sampled.sum() / expected.sum()) == pytest.approx(1, abs=0.03)
    of_data = estimate(labels="data")
    assert float(((of_data - expected).abs() / expected)[big].mean()) > 0.3
    # Another seed is another estimate, the same one repeats.
    assert torch.equal(estimate(draws=2, seed=1), estimate(draws=2, seed=1))
    assert not torch.equal(estimate(draws=2, seed=1), estimate(draws=2, seed=2))


def test_drawn_labels_do_not_depend_on_the_other_rows() -> None:
    """The same row gives the same gradient whichever rows stand before it."""
    model, examples = tiny()
    parameters = list(model.parameters())
    with progress.Bar("test", 1) as bar:
        both = fisher(model, parameters, examples, bar)
        apart = [fisher(model, parameters, [item], bar) for item in reversed(examples)]
    for whole, second, first in zip(both, *apart, strict=True):
        torch.testing.assert_close(whole * 5, first * 3 + second * 2, rtol=1e-9, atol=1e-12)
    # A row that stands in the data twice is drawn for twice.
    twin = Example("2:0", examples[0].inputs, examples[0].targets)
    with progress.Bar("test", 1) as bar:
        pairs = zip(
            fisher(model, parameters, [examples[0], twin], bar),
            fisher(model, parameters, [examples[0]], bar),
            strict=True,
        )
    assert not any(torch.allclose(both, one) for both, one in pairs)


def test_gradients_only_where_they_are_asked_for() -> None:
    model, examples = tiny()
    names = dict(model.named_parameters())
    head, query = names["lm_head.weight"], names["model.layers.0.self_attn.q_proj.weight"]
    with progress.Bar("test", 1) as bar:
        together = fisher(model, [head, query], examples, bar)
        alone = fisher(model, [head], examples, bar)
    assert not query.requires_grad
    torch.testing.assert_close(together[0], alone[0])
