"""Drawing a token: temperature, then the likeliest that together have the probability top_p."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def draw(
    logits: Float[Tensor, "rows vocab"],
    temperature: Float[Tensor, " rows"],
    top_p: Float[Tensor, " rows"],
    generators: list[torch.Generator],
) -> Int[Tensor, " rows"]:
    """One token for each row, by one number of its own generator.

    As in transformers, a token is left out when those less likely than it, with it, have together
    at most 1 - top_p; the likeliest always stays. Drawn on the CPU, so that a seed means the same
    on every device.
    """
    scores = logits.float().cpu() / temperature[:, None]
    ordered, order = scores.sort(descending=False, dim=-1)
    below = ordered.softmax(dim=-1).cumsum(dim=-1)
    out = (below <= 1 - top_p[:, None]) & (top_p < 1)[:, None]
    out[:, -1] = False
    chances = ordered.double().masked_fill(out, -torch.inf).softmax(dim=-1).cumsum(dim=-1)
    at = torch.stack([torch.rand((), generator=one, dtype=torch.float64) for one in generators])
    # The last sum may be a hair below 1.
    place = torch.searchsorted(chances, (at * chances[:, -1])[:, None], right=True)
    return order.gather(1, place.clamp(max=order.shape[1] - 1))[:, 0]


def generator(seed: int) -> torch.Generator:
    """A source of numbers of its own for one answer."""
    return torch.Generator().manual_seed(seed & ((1 << 63) - 1))
