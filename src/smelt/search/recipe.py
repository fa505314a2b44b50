"""The search recipe: a merge recipe with `search` in place of values, and how to search."""

from typing import Annotated, Any, Literal

from pydantic import Field

from smelt.core.config import Recipe


class Fitness(Recipe):
    """What is maximised, on a fitness split (never a test split)."""

    data: str
    """JSONL rows of instruction-response pairs."""
    domains: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """Domain of the rows -> weight in the mean."""
    limit: int = Field(default=150, gt=0)
    """At most this many rows of each domain."""
    measure: Literal["exact", "likelihood"] = "exact"
    """exact: share of rows whose whole response greedy decoding would write;
    likelihood: minus the bits per byte of the responses."""


class SearchSection(Recipe):
    """How the space is searched."""

    fitness: Fitness
    """What is maximised."""
    algorithm: str = "cma_es"
    """Plug-in of kind search-algorithm."""
    evaluations: int = Field(default=100, gt=0)
    """Candidates merged and scored."""
    layer_groups: Annotated[int, Field(gt=0)] | Literal["all"] = 1
    """Consecutive groups of layers with values of their own; 1: one value for the whole model."""
    warm_start: str | None = None
    """Merge recipe (YAML), or the result folder of a search, whose values are the start."""
    options: dict[str, Any] = Field(default={})
    """Keywords of the algorithm."""
