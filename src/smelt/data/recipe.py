"""The recipe of `smelt data`, and the checks that need the plug-ins' schemas."""

import sys
from typing import Any, Literal, get_args, get_origin

from pydantic import ConfigDict, Field

from smelt.core import config, registry
from smelt.core.config import Recipe
from smelt.core.errors import UserError, nearest
from smelt.data.document import InputPath, Packages

Split = Literal["train", "fitness", "test"]


class Entry(Recipe):
    """A plug-in by name; every further key is one of its parameters."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Source(Entry):
    """Where documents come from."""

    domain: str | None = None
    """Domain of its rows, in place of the source's own."""
    split: Split | None = None
    """Put all its rows into this split (rows that share a prompt with them follow)."""


class Filter(Entry):
    """A rule that keeps or drops documents."""

    only: list[str] | None = None
    """Names of the sources that it applies to (default: all)."""


class NearDedup(Recipe):
    """MinHash de-duplication (see smelt.data.dedup)."""

    threshold: float = Field(0.8, gt=0, le=1)
    """Estimated Jaccard similarity of word 5-grams from which the later document is dropped."""
    permutations: int = Field(112, ge=16, le=1024)
    """Hash functions of a signature."""
    pairs: bool = False
    """Also compare prompt-response rows (short templated rows look alike; off by default)."""


class Splits(Recipe):
    """Shares of the held-out splits, by hash of the prompt (or text)."""

    fitness: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, ge=0, lt=1)
    max_per_domain: int | None = Field(None, ge=1)
    """Most rows of one domain in a held-out split; the surplus is dropped (and counted)."""


class Decontaminate(Recipe):
    """Drop train rows that overlap the held-out splits or benchmark files."""

    ngram: int = Field(10, ge=2)
    """Consecutive tokens that count as an overlap (InfiR: 10)."""
    against: list[str] = Field([])
    """JSONL (or .jsonl.gz) files of benchmarks."""
    fields: list[str] = Field([])
    """Fields of those files to compare (default: every text field)."""


class Tokenizer(Recipe):
    """A tokenizer trained on the curated train split."""

    kind: Literal["byte_bpe", "sentencepiece_bpe"]
    vocab_size: int = Field(ge=300)
    """Tokens, the 256 bytes among them."""


class DataRecipe(Recipe):
    """What `smelt data` takes."""

    sources: list[Source] = Field(min_length=1)
    filters: list[Filter] = Field([])
    near_dedup: NearDedup | None = None
    splits: Splits = Field(default_factory=lambda: Splits.model_validate({}))
    decontaminate: Decontaminate = Field(default_factory=lambda: Decontaminate.model_validate({}))
    tokenizers: dict[str, Tokenizer] = Field({})


def read(data: dict[str, Any], where: str) -> DataRecipe:
    """A recipe whose plug-ins exist and take the given keys. Raises UserError with the key path."""
    recipe = config.parse(DataRecipe, data, where, "smelt ls source; smelt ls filter")
    for kind, field, entries in (
        ("source", "sources", recipe.sources),
        ("filter", "filters", recipe.filters),
    ):
        for place, entry in enumerate(entries):
            registry.check_keywords(kind, entry.name, entry.options, f"{where}: {field}[{place}]")
    known = [entry.name for entry in recipe.sources]
    for place, entry in enumerate(recipe.filters):
        for name in entry.only or []:
            if name not in known:
                path = f"{where}: filters[{place}].only"
                raise UserError(path, f"no source '{name}' here", nearest(name, known))
    if recipe.splits.fitness + recipe.splits.test >= 1:
        raise UserError(f"{where}: splits", "nothing left for train", "shares that sum below 1")
    for name in recipe.tokenizers:
        if not name.replace("-", "").replace("_", "").isalnum():
            key = f"{where}: tokenizers.{name}"
            raise UserError(key, "not a folder name", "letters, digits, - and _")
    return recipe


def resolved(kind: str, entry: Entry) -> dict[str, Any]:
    """The plug-in's options with its defaults filled in."""
    plugin = registry.load(kind, entry.name)
    defaults = {p.name: p.default for p in registry.schema(plugin) if not p.required}
    return defaults | entry.options


def _marked(entry: Source, marker: Any) -> list[Any]:
    """Values of the options whose annotation carries the marker of InputPath or Packages."""
    wanted = get_args(marker)[1]
    parameters = registry.schema(registry.load("source", entry.name))
    options = resolved("source", entry)
    return [
        options[parameter.name]
        for parameter in parameters
        if get_origin(parameter.annotation) is get_origin(marker)
        and wanted in get_args(parameter.annotation)
    ]


def input_files(recipe: DataRecipe) -> dict[str, str]:
    """Name -> path of every file that decides the result."""
    files = {}
    for place, entry in enumerate(recipe.sources):
        for path in _marked(entry, InputPath):
            files[f"sources[{place}]"] = str(path)
    for place, path in enumerate(recipe.decontaminate.against):
        files[f"decontaminate[{place}]"] = path
    return files


def packages_read(recipe: DataRecipe) -> list[str] | None:
    """Installed packages that decide the result, or None when the installation does not matter.

    They are named by options that are marked as Packages, or by the constant PACKAGES of a source.
    """
    found = [names for entry in recipe.sources for names in _marked(entry, Packages)]
    for entry in recipe.sources:
        plugin = registry.load("source", entry.name)
        named = vars(sys.modules[plugin.__module__]).get("PACKAGES")
        found += [list(named)] if named else []
    return sorted({name for names in found for name in names}) if found else None
