"""The eval recipe: which models on which benchmarks, and what belongs together in the table."""

from typing import Annotated, Any, Literal

from pydantic import Field

from smelt.core.config import Recipe

Role = Literal["base", "expert", "merge", "fused", "control", "reference"]


class ModelEntry(Recipe):
    """A model behind a backend."""

    model: str
    """Checkpoint folder or hub name, GGUF file, or the name that an endpoint knows it by."""
    backend: str = "transformers"
    """Plug-in of kind backend."""
    options: dict[str, Any] = Field(default={})
    """Keywords of the backend."""


class BenchmarkEntry(Recipe):
    """A benchmark, and how it is asked."""

    name: str
    """Plug-in of kind benchmark, or lm_eval/TASK for any task of lm-evaluation-harness."""
    data: str | None = None
    """Its data file (JSONL, .gz allowed), a folder of such files, or a folder of such folders;
    where `smelt fetch` puts them unless given."""
    split: str | None = None
    """Which file of the folder; the benchmark's test split unless given."""
    form: Literal["auto", "chat", "base"] = "auto"
    """chat: zero-shot through the model's chat template; base: few-shot text;
    auto: chat for a model that has a template, else base."""
    shots: int | None = Field(default=None, ge=0)
    """Solved examples before the question; what the form says unless given."""
    limit: int | None = Field(default=None, gt=0)
    """At most this many items per group: the first of the file, of its subjects in turn."""
    only: list[str] = Field(default=[])
    """Groups or subjects to keep; all when empty."""
    options: dict[str, Any] = Field(default={})
    """Of lm_eval/TASK only; see docs/lm-eval.md."""


class EvalRecipe(Recipe):
    """`smelt eval`: accuracy with intervals, every answer kept."""

    verb: Literal["eval"] = "eval"
    """Names the verb for `smelt check`."""
    models: dict[str, str | ModelEntry] = Field(min_length=1)
    """Name in the table -> checkpoint folder, GGUF file, or a model with its backend."""
    benchmarks: list[BenchmarkEntry] = Field(default=[])
    """What is asked."""
    text: dict[str, str] = Field(default={})
    """Name -> JSONL or plain text file on which the likelihood is measured (bits per byte)."""
    groups: dict[str, list[str]] = Field(default={})
    """Means of several rows, e.g. domains: [math, logic, code]."""
    roles: dict[str, Role] = Field(default={})
    """What a model is, so that the report knows what to compare with what."""
    combined: dict[str, Annotated[list[str], Field(min_length=2)]] = Field(default={})
    """Row of a combined skill -> the rows of its single skills, e.g. ml: [math, logic]."""
    compare: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(default=[])
    """Pairs of models: is the difference on the same items real?"""
    samples: int = Field(default=1, gt=0)
    """Answers drawn for each question; more than one needs a temperature."""
    pass_at: list[Annotated[int, Field(gt=0)]] = Field(default=[])
    """k for pass@k: the chance that one of k answers is right; at most `samples`."""
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """0: greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens that together have this probability."""
    max_new_tokens: int | None = Field(default=None, gt=0)
    """Budget of an answer; what the benchmark's form says unless given."""
    batch_size: int = Field(default=256, gt=0)
    """Prompts generated at once."""
    cache: bool = True
    """Keep answers by content in ~/.cache/smelt and take them from there."""
    unsafe_code: bool = False
    """Run generated programs even where no isolation is possible."""
