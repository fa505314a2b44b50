"""Score checkpoints on benchmarks: accuracy with intervals, and every answer kept."""

from pathlib import Path
from typing import Annotated, Any

import typer

from smelt.core import config
from smelt.core.errors import UserError
from smelt.core.run import Run
from smelt.verbs._options import (
    Device,
    OutOption,
    Seed,
    Settings,
    out_folder,
    read_recipe,
)


def eval(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="Checkpoint folders, or NAME=FOLDER."),
    ] = None,
    *,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Eval recipe (YAML).")] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option("--benchmark", metavar="NAME[=DATA]", help="Benchmark (and its data)."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", metavar="NAME=FILE", help="Text for perplexity.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Items per group.")] = None,
    out_option: OutOption = None,
    seed: Seed = 0,
    device: Device = "cpu",
    settings: Settings = None,
) -> None:
    """Evaluate models, e.g. `smelt eval A B --benchmark gsm8k=test.jsonl.gz --out scores`."""
    if recipe is not None:
        if models or benchmark or text or limit is not None:
            raise UserError("smelt eval", "a recipe and other arguments", "one of the two")
        content, where = read_recipe(recipe, settings)
    else:
        named = [_pair(model, Path(model).resolve().name) for model in models or []]
        if len({name for name, _ in named}) < len(named):
            raise UserError("smelt eval", "two models of one name", "NAME=FOLDER for each")
        entries = [entry.partition("=")[::2] for entry in benchmark or []]
        content = {
            "models": dict(named),
            "benchmarks": [{"name": n, "data": d or None, "limit": limit} for n, d in entries],
            "text": dict(_pair(entry, None) for entry in text or []),
        }
        content, where = config.override(content, settings or [], "eval"), "eval"
    out = out_folder(None, out_option, "eval")
    execute(content, out, where=where, seed=seed, device=device)
    _print(out)


def _pair(text: str, default: str | None) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if separator:
        return name, path
    if default is None:
        raise UserError(text, "no '='", "NAME=FILE")
    return default, text


def _print(out: Path) -> None:
    from rich.console import Console

    from smelt.core.run import read_record
    from smelt.evals.shown import tables

    record, console = read_record(out), Console()
    for table in tables(record):
        console.print(table)
    if record["scores"]:
        console.print(f"Every answer: {out / 'samples'}", soft_wrap=True)


def shape(data: dict[str, Any], *, where: str) -> None:
    """Validate keys only: what can be known before the inputs exist."""
    from smelt.evals.evaluate import check_shape

    check_shape(data, where)


def check(data: dict[str, Any], *, where: str) -> list[str]:
    """Validate models, benchmarks and data; lines about what would be asked."""
    from smelt.evals.evaluate import describe, prepare

    return describe(prepare(data, where))


def execute(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
) -> None:
    """Evaluate as a recipe says. Greedy answers do not depend on the seed; drawn ones do."""
    from smelt.evals.evaluate import check_device, evaluate, inputs_of, prepare

    ready = prepare(data, where)
    check_device(ready, device)
    content = ready.recipe.model_dump(mode="json")
    content["versions"] = {
        entry.name: exam.benchmark.version for entry, exam in ready.exams if exam is not None
    }
    run = Run(out, "eval", content, inputs_of(ready), seed=seed, replace=replace)
    if run.done:
        return
    with run:
        evaluate(ready, run, device=device, seed=seed)
