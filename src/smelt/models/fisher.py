"""Diagonal Fisher information: mean squared gradient of log p(y|x). (arXiv:2111.09832)

The paper takes the expectation over labels y that the model itself expects, and so does
`labels="sampled"`, the default: next tokens are drawn from the model at every position. Labels of
the data (`labels="data"`, the empirical Fisher) are common and have no sampling noise, but they
measure how badly the model fits as much as how curved its likelihood is: gradients vanish where it
fits well, however sure it is (Kunstner et al., arXiv:1905.12558).

An example is one document or pair; its gradient is that of its whole log-likelihood, squared by
itself, one backward pass each. Drawn labels are independent given the text and the expected
gradient of each is zero, so that in expectation the square of the sum is the sum of the squares:
the result estimates the mean over predicted tokens without bias. For labels of the data the cross
terms stay, as in the paper's per-example definition, and the sum is divided by tokens as well.
Dividing by tokens, not by examples, keeps models comparable that were measured on rows of
different length; `rows`, `examples` and `tokens` of the description convert.
"""

from typing import Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from smelt.core import progress
from smelt.core.errors import UserError
from smelt.core.seed import seed_for
from smelt.models.examples import Example

Labels = Literal["sampled", "data"]


def draw_labels(
    logits: Float[Tensor, "time vocab"], draws: int, seed: int
) -> Int[Tensor, "time draws"]:
    """Next tokens drawn independently at every position from the model's distribution."""
    generator = torch.Generator(logits.device).manual_seed(seed)
    return torch.multinomial(logits.softmax(-1), draws, replacement=True, generator=generator)


def fisher(
    model: PreTrainedModel,
    parameters: list[nn.Parameter],
    examples: list[Example],
    bar: progress.Bar,
    *,
    labels: Labels = "sampled",
    draws: int = 1,
    seed: int = 0,
) -> list[Float64[Tensor, "..."]]:
    """The diagonal for each of the parameters, of its shape, as the mean per predicted token.

    draws: label sets for each example (ignored for labels of the data, where there is one).
    Memory: 8 bytes for each entry of the parameters, plus 4 for its gradient, plus 8 for each of
    the largest parameter, plus the activations of one example. Gradients of other parameters are
    not computed. The bar moves by tokens read. Raises UserError for a model that gives no numbers.
    """
    chosen = {id(parameter) for parameter in parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    home = torch.device("cpu") if model.device.type == "mps" else model.device
    sums = [torch.zeros(p.shape, dtype=torch.float64, device=home) for p in parameters]
    num_labels = 0
    for example in examples:
        ids = torch.tensor([example.inputs], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, -len(example.targets) :].float()
        if not bool(torch.isfinite(logits.logsumexp(-1)).all()):
            found = "the model gives likelihoods that are no finite numbers"
            raise UserError(f"row {example.name}", found, "a sound model")
        if labels == "data":
            wanted = torch.tensor(example.targets, device=model.device)[:, None]
        else:
            wanted = draw_labels(logits.detach(), draws, seed_for(seed, "labels", example.name))
        likelihood = logits.log_softmax(-1).gather(1, wanted).sum(0)
        for index in range(len(likelihood)):
            gradients = torch.autograd.grad(
                likelihood[index],
                parameters,
                retain_graph=index + 1 < len(likelihood),
                allow_unused=True,
            )
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient.to(home).double().square_()
        num_labels += wanted.numel()
        bar.move(len(example.inputs))
    return [total.div_(num_labels) for total in sums]  # in place: a copy would double the room
