"""The eval recipe: which models on which benchmarks, and what belongs together in the table."""

from typing import Literal

from pydantic import Field

from smelt.core.config import Recipe

Role = Literal["base", "expert", "merge", "fused", "control", "reference"]


class BenchmarkEntry(Recipe):
    """A benchmark on a data file."""

    name: str
    """Plug-in of kind benchmark."""
    data: str
    """Its file of questions (JSONL, .gz allowed)."""
    limit: int | None = Field(default=None, gt=0)
    """At most this many items per group, the first of the file."""
    only: list[str] = Field(default=[])
    """Groups to keep; all when empty."""


class EvalRecipe(Recipe):
    """`smelt eval`: accuracy with intervals, every answer kept."""

    verb: Literal["eval"] = "eval"
    """Names the verb for `smelt check`."""
    models: dict[str, str] = Field(min_length=1)
    """Name in the table -> checkpoint folder."""
    benchmarks: list[BenchmarkEntry] = Field(default=[])
    """What is asked."""
    text: dict[str, str] = Field(default={})
    """Name -> JSONL or plain text file on which the likelihood is measured (bits per byte)."""
    groups: dict[str, list[str]] = Field(default={})
    """Means of several rows, e.g. domains: [math, logic, code]."""
    roles: dict[str, Role] = Field(default={})
    """What a model is, so that the report knows what to compare with what."""
    batch_size: int = Field(default=256, gt=0)
    """Prompts generated at once."""
