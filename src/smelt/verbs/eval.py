"""Score checkpoints on benchmarks: accuracy with intervals, and every answer kept."""

from pathlib import Path
from typing import Annotated, Any

import typer

from smelt.core import config, registry
from smelt.core.errors import UserError
from smelt.core.run import Run
from smelt.verbs._options import (
    Device,
    OutOption,
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
        typer.Option("--benchmark", metavar="NAME=FILE", help="Benchmark and its data."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", metavar="NAME=FILE", help="Text for perplexity.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Items per group.")] = None,
    out_option: OutOption = None,
    device: Device = "cpu",
    settings: Settings = None,
) -> None:
    """Evaluate models, e.g. `smelt eval A B --benchmark gsm8k=test.jsonl.gz --out scores`."""
    if recipe is not None:
        if models or benchmark or text or limit:
            raise UserError("smelt eval", "a recipe and other arguments", "one of the two")
        content, where = read_recipe(recipe, settings)
    else:
        named = [_pair(model, Path(model).name) for model in models or []]
        if len({name for name, _ in named}) < len(named):
            raise UserError("smelt eval", "two models of one name", "NAME=FOLDER for each")
        entries = [_pair(entry, None) for entry in benchmark or []]
        content = {
            "models": dict(named),
            "benchmarks": [{"name": n, "data": d, "limit": limit} for n, d in entries],
            "text": dict(_pair(entry, None) for entry in text or []),
        }
        content, where = config.override(content, settings or [], "eval"), "eval"
    out = out_folder(None, out_option, "eval")
    execute(content, out, where=where, device=device)
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
    from rich.table import Table

    from smelt.core.run import read_record

    record = read_record(out)
    table = Table("model", "benchmark", "score", "95 % interval", "unread")
    for model, scores in record["scores"].items():
        for name, cell in scores.items():
            share = f"{cell['correct']}/{cell['total']} = {cell['accuracy']:.3f}"
            interval = f"{cell['low']:.3f} to {cell['high']:.3f}"
            table.add_row(model, name, share, interval, str(cell["unparsed"]))
    for model, texts in record["likelihood"].items():
        for name, cell in texts.items():
            bits = f"{cell['bits_per_byte']:.4f} bits per byte"
            table.add_row(model, name, bits, f"perplexity {cell['perplexity']:.3f}", "")
    Console().print(table)


def shape(data: dict[str, Any], *, where: str) -> None:
    """Validate keys only: what can be known before the inputs exist."""
    from smelt.evals.recipe import EvalRecipe

    recipe = config.parse(EvalRecipe, data, where, "smelt show verb eval")
    for entry in recipe.benchmarks:
        registry.load("benchmark", entry.name)
    for model in recipe.roles:
        if model not in recipe.models:
            raise UserError(f"{where}: roles.{model}", "no such model", str(sorted(recipe.models)))


def check(data: dict[str, Any], *, where: str) -> list[str]:
    """Validate models, benchmarks and data; lines about what would be asked."""
    from smelt.checkpoint.reader import Checkpoint
    from smelt.checkpoint.tokenizer import TextTokenizer, open_tokenizer
    from smelt.evals.harness import check_room, items_of, read_text
    from smelt.evals.recipe import EvalRecipe
    from smelt.models.load import check_rows

    recipe = config.parse(EvalRecipe, data, where, "smelt show verb eval")
    if not recipe.benchmarks and not recipe.text:
        raise UserError(where, "nothing to measure", "benchmarks or text", "smelt ls benchmark")
    opened: dict[str, tuple[dict[str, Any], TextTokenizer]] = {}
    for name, folder in recipe.models.items():
        checkpoint = Checkpoint.open(folder)
        opened[name] = checkpoint.config, open_tokenizer(checkpoint.folder)
        check_rows(*opened[name], f"{where}: models.{name}")
        if "/" in name or name.startswith("."):
            raise UserError(f"{where}: models.{name}", "no plain name", "a name without '/'")
    lines: list[str] = []
    groups: set[str] = set()
    for index, entry in enumerate(recipe.benchmarks):
        benchmark = registry.load("benchmark", entry.name)
        found = items_of(entry, f"{where}: benchmarks[{index}]")
        repeated = sorted(groups & set(found))
        if repeated:
            raise UserError(
                f"{where}: benchmarks[{index}]", f"'{repeated[0]}' stands twice", "once"
            )
        groups |= set(found)
        for items in found.values():
            for name, (model_config, tokenizer) in opened.items():
                place = f"{where}: models.{name}, benchmarks[{index}]"
                check_room(model_config, tokenizer, benchmark, items, place)
        lines += [f"{entry.name}: {group}, {len(items)} items" for group, items in found.items()]
    for name, path in recipe.text.items():
        lines.append(f"text {name}: {len(read_text(Path(path), where))} texts")
    for name, members in recipe.groups.items():
        unknown = sorted(set(members) - groups)
        if unknown:
            raise UserError(
                f"{where}: groups.{name}", f"unknown row '{unknown[0]}'", str(sorted(groups))
            )
    for model in recipe.roles:
        if model not in recipe.models:
            raise UserError(f"{where}: roles.{model}", "no such model", str(sorted(recipe.models)))
    return [*lines, f"{len(recipe.models)} models"]


def execute(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
) -> None:
    """Evaluate as a recipe says. Decoding is greedy, so the seed only names the run."""
    check(data, where=where)
    from smelt.checkpoint.reader import local_path
    from smelt.checkpoint.tokenizer import open_tokenizer
    from smelt.evals import harness
    from smelt.evals.recipe import EvalRecipe
    from smelt.models.load import check_fits, context_length, load_model, pick_device

    recipe = config.parse(EvalRecipe, data, where)
    content = recipe.model_dump(mode="json")
    versions = {e.name: registry.load("benchmark", e.name).version for e in recipe.benchmarks}
    content["versions"] = versions
    models = {name: local_path(path) for name, path in recipe.models.items()}
    inputs = {f"models.{name}": path for name, path in models.items()}
    inputs |= {f"benchmarks.{i}": entry.data for i, entry in enumerate(recipe.benchmarks)}
    inputs |= {f"text.{name}": path for name, path in recipe.text.items()}
    run = Run(out, "eval", content, inputs, seed=seed, replace=replace)
    if run.done:
        return
    with run:
        scores: dict[str, Any] = {}
        likelihoods: dict[str, Any] = {}
        floors: dict[str, float] = {}
        for name, folder in models.items():
            model = load_model(folder, pick_device(device))
            tokenizer = open_tokenizer(folder)
            check_fits(model, tokenizer, f"{where}: models.{name}")
            scores[name], likelihoods[name] = {}, {}
            for index, entry in enumerate(recipe.benchmarks):
                benchmark = registry.load("benchmark", entry.name)
                groups = harness.items_of(entry, f"{where}: benchmarks[{index}]")
                for group, items in groups.items():
                    floors[group] = harness.majority(items)
                    scores[name][group] = harness.run_benchmark(
                        model,
                        tokenizer,
                        benchmark,
                        items,
                        run.folder / "samples" / name / f"{group}.jsonl",
                        batch_size=recipe.batch_size,
                        label=f"eval {name}: {group}",
                    )
            for text_name, path in recipe.text.items():
                texts = harness.read_text(Path(path), where)
                likelihoods[name][text_name] = harness.likelihood(
                    model, tokenizer, texts, context_length(model), f"eval {name}: {text_name}"
                )
        run.note(scores=scores, likelihood=likelihoods, majority=floors)
        run.note(groups=recipe.groups, roles=recipe.roles)
