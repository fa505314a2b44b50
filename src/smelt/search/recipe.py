"""The search recipe: a merge recipe with `search` in place of values, and how to search."""

from typing import Annotated, Any, Literal

from pydantic import Field

from smelt.core.config import Recipe

LayerGroups = Annotated[int, Field(gt=0)] | Literal["all"]


class Fitness(Recipe):
    """What is maximised, on a fitness split (never a test split): rows of a file, or benchmarks."""

    data: str | None = None
    """JSONL rows of instruction-response pairs."""
    domains: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Domain of the rows -> weight in the mean."""
    benchmarks: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Benchmark -> weight in the mean; asked on its fitness split only."""
    folder: str | None = None
    """Folder of the benchmarks' data; where `smelt fetch` puts them unless given."""
    form: Literal["auto", "chat", "base"] = "auto"
    """How benchmarks are asked, as in an eval recipe."""
    limit: int = Field(default=150, gt=0)
    """At most this many rows of each domain, or items of each benchmark."""
    measure: Literal["exact", "likelihood", "score"] | None = None
    """exact: share of rows whose whole response greedy decoding would write;
    likelihood: minus the bits per byte of the responses; score: answers are written and read by
    the benchmark's rule. Rows: exact unless given; benchmarks: score."""
    max_new_tokens: int | None = Field(default=None, gt=0)
    """score: budget of an answer; what the benchmark says unless given."""
    test: str | None = None
    """Test split of the rows, scored once at the end beside the fitness split; the file test.jsonl
    beside `data`, where there is one, unless given."""
    batch_size: int = Field(default=256, gt=0)
    """score: prompts generated at once."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision in which a candidate is scored, whatever it is stored in; 16 bits on a GPU."""

    @property
    def scored_by(self) -> Literal["exact", "likelihood", "score"]:
        """How items are scored: `measure`, or what stands for it when it is not given."""
        return self.measure or ("score" if self.benchmarks else "exact")


class Racing(Recipe):
    """Early rejection: candidates are scored on a growing sample of the items."""

    first: float = Field(default=0.25, gt=0, le=1)
    """Share of the items that every candidate of a generation is scored on."""
    growth: float = Field(default=2.0, gt=1, allow_inf_nan=False)
    """By how much the sample of the surviving candidates grows in each round."""
    keep: float = Field(default=0.5, gt=0, lt=1)
    """Share of the candidates that survive a round."""
    select: bool = True
    """Items that tell candidates apart come first; the others are estimated from earlier ones."""


class SearchSection(Recipe):
    """How the space is searched."""

    fitness: Fitness
    """What is maximised."""
    objectives: list[Literal["score", "length", "size"]] = Field(default=["score"], min_length=1)
    """score: the fitness; length: fewer tokens per answer; size: fewer parameters that differ from
    the base. More than one needs an algorithm for several, which gives a Pareto front."""
    algorithm: str = "cma_es"
    """Plug-in of kind search-algorithm."""
    evaluations: Annotated[int, Field(gt=0)] | list[Annotated[int, Field(gt=0)]] = 100
    """Candidates merged and scored; a list says it for each stage of `layer_groups`."""
    layer_groups: LayerGroups | list[LayerGroups] = 1
    """Consecutive groups of layers with values of their own; 1: one value for the whole model;
    a list, e.g. [1, 4, all]: coarse to fine, each stage starts at the best of the one before."""
    components: bool = False
    """Values of their own for attention, MLP and the rest of each group."""
    smooth: bool = False
    """Values run linearly over depth between the groups' middles instead of in steps."""
    warm_start: str | None = None
    """Merge recipe (YAML), or the result folder of a search, whose values are the start."""
    racing: Racing | None = None
    """Early rejection; without it every candidate is scored on every item."""
    workers: int = Field(default=1, gt=0)
    """Candidates scored at once, by Ray when more than one."""
    address: str | None = None
    """Ray cluster to join, e.g. auto; without it workers run on this machine."""
    options: dict[str, Any] | list[dict[str, Any]] = Field(default={})
    """Keywords of the algorithm; a list says them for each stage."""

    @property
    def stages(self) -> list[int | str]:
        """Layer groups of each stage, coarse to fine."""
        given = self.layer_groups
        return [*given] if isinstance(given, list) else [given]
