"""The recipe of `smelt statistics`: which model, which data, and how it is measured."""

from typing import Literal

from pydantic import Field

from smelt.core.config import Recipe


class StatisticsRecipe(Recipe):
    """`smelt statistics`: what a model does on data, for merge methods that ask for it."""

    verb: Literal["statistics"] = "statistics"
    """Names the verb for `smelt check`."""
    model: str
    """Checkpoint folder or hub name."""
    data: str
    """JSONL rows with `text` (and `prompt`), or plain text, whose paragraphs are rows."""
    kind: Literal["gram", "fisher"]
    """gram: inputs of linear layers, for regmean; fisher: squared gradients, for fisher."""
    limit: int | None = Field(default=1000, gt=0)
    """At most this many rows, drawn by the seed; null takes all."""
    max_tokens: int | None = Field(default=None, gt=0)
    """At most this many tokens are read; null sets no limit."""
    context: int = Field(default=2048, gt=0)
    """Longest example in tokens, if the model's own context is not shorter."""
    labels: Literal["sampled", "data"] = "sampled"
    """fisher: next tokens drawn from the model (the Fisher information), or those of the data."""
    draws: int = Field(default=1, gt=0)
    """fisher: how often labels are drawn for an example; more is less noise and more time."""
    memory_gb: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Room for the sums; what exceeds it is measured in a further pass over the data."""
