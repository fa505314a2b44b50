"""Curate raw text, code and generated problems: splits, a count and a reason for each drop."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from smelt.core.errors import UserError
from smelt.core.run import Run
from smelt.verbs._options import recipe_verb

if TYPE_CHECKING:
    from smelt.data.recipe import DataRecipe


def shape(data: dict[str, Any], *, where: str) -> None:
    """Validate keys only: what can be known before the inputs exist."""
    from smelt.data import recipe as recipes

    recipes.read(data, where)


def check(data: dict[str, Any], *, where: str) -> list[str]:
    """Validate a recipe without reading data; lines about what would be done."""
    from smelt.data import recipe as recipes
    from smelt.data.curate import expected_rows

    recipe = recipes.read(data, where)
    _check_inputs(recipe, where)
    lines = []
    for source in recipe.sources:
        rows = expected_rows(source)
        options = ", ".join(f"{k}={v!r}" for k, v in recipes.resolved("source", source).items())
        amount = f"at most {rows} rows" if rows else "rows unknown until read"
        lines.append(f"source {source.name} ({options}): {amount}")
    for entry in recipe.filters:
        options = ", ".join(f"{k}={v!r}" for k, v in recipes.resolved("filter", entry).items())
        scope = ", ".join(entry.only or ["all sources"])
        lines.append(f"filter {entry.name} ({options}) on {scope}")
    shares = recipe.splits
    train = 1 - shares.fitness - shares.test
    lines.append(f"splits: train {train:.0%}, fitness {shares.fitness:.0%}, test {shares.test:.0%}")
    for name, tokenizer in recipe.tokenizers.items():
        lines.append(f"tokenizer {name}: {tokenizer.kind}, vocabulary of {tokenizer.vocab_size}")
    return lines


def execute(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
) -> None:
    """Curate the data set of a recipe. Nothing here runs on an accelerator: any device will do."""
    from smelt.data import recipe as recipes
    from smelt.data.curate import curate

    recipe = recipes.read(data, where)
    _check_inputs(recipe, where)
    content = recipe.model_dump(mode="json", exclude={"sources", "filters"})
    content |= {
        field: [entry.model_dump(mode="json") | recipes.resolved(kind, entry) for entry in entries]
        for kind, field, entries in (
            ("source", "sources", recipe.sources),
            ("filter", "filters", recipe.filters),
        )
    }
    content["installed"] = _installed(recipe)
    run = Run(out, "data", content, recipes.input_files(recipe), seed=seed, replace=replace)
    if run.done:
        return
    with run:
        run.note(**curate(recipe, run.folder, seed=seed, where=where))


def _check_inputs(recipe: "DataRecipe", where: str) -> None:
    from smelt.data.recipe import input_files, packages_read

    for name, path in input_files(recipe).items():
        if not Path(path).is_file():
            raise UserError(f"{where}: {name}", f"no such file: {path}", "a JSONL file")
    for package in packages_read(recipe) or []:
        _version(package, where)


def _version(package: str, where: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        found = f"package '{package}' is not installed"
        raise UserError(where, found, "an installed one", f"pip install {package}") from error


def _installed(recipe: "DataRecipe") -> dict[str, str]:
    """Versions of what the result depends on besides recipe and files; part of its identity."""
    import platform

    from smelt.data.dedup import backend
    from smelt.data.recipe import packages_read

    found = {"minhash": backend()} if recipe.near_dedup else {}
    packages = packages_read(recipe)
    if packages is not None:
        found |= {"python": platform.python_version()}
        found |= {name: _version(name, "packages") for name in packages}
    return found


data = recipe_verb("data", execute, device=False)
