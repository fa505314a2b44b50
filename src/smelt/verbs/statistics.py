"""Measure a model on data (gram, fisher) for the merge methods that ask for it: regmean, fisher."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smelt.core import config
from smelt.core.errors import UserError, require
from smelt.core.run import Run
from smelt.verbs._options import Device, OutFolder, OutOption, Seed, Settings, out_folder

if TYPE_CHECKING:
    from smelt.checkpoint.reader import Checkpoint
    from smelt.models.examples import Examples
    from smelt.models.recipe import StatisticsRecipe

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder or hub name.")]
Data = Annotated[
    str, typer.Option("--data", metavar="FILE", help="JSONL rows (text, prompt) or plain text.")
]
KindOption = Annotated[str, typer.Option("--kind", help="gram (for regmean) or fisher.")]
Limit = Annotated[int, typer.Option("--limit", help="Rows at most, drawn by the seed.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Tokens read at most.")]
LabelsOption = Annotated[
    str, typer.Option("--labels", help="fisher: sampled (from the model) or data.")
]


def statistics(
    model: Model,
    out: OutFolder = None,
    *,
    data: Data,
    kind: KindOption,
    limit: Limit = 1000,
    max_tokens: MaxTokens = None,
    labels: LabelsOption = "sampled",
    out_option: OutOption = None,
    seed: Seed = 0,
    device: Device = "cpu",
    settings: Settings = None,
) -> None:
    """Measure a model on a file, e.g. `smelt statistics A out --data a.jsonl --kind gram`."""
    content: dict[str, Any] = {
        "model": model,
        "data": data,
        "kind": kind,
        "limit": limit,
        "max_tokens": max_tokens,
        "labels": labels,
    }
    content = config.override(content, settings or [], "smelt statistics")
    folder = out_folder(out, out_option, "statistics")
    execute(content, folder, where="smelt statistics", seed=seed, device=device)


def shape(data: dict[str, Any], *, where: str) -> None:
    """Validate keys only: what can be known before the inputs exist."""
    _parse(data, where)


def check(data: dict[str, Any], *, where: str) -> list[str]:
    """Validate model and data; lines about what would be read and written."""
    recipe = _parse(data, where)
    require("train")
    from smelt.models.statistics import largest_bytes

    checkpoint, examples = _inputs(recipe, where, seed=0)
    skipped = [f"skipped {count} rows: {reason}" for reason, count in examples.skipped.items()]
    num_bytes = largest_bytes(checkpoint.folder, recipe.kind)
    return [
        f"{examples.num_rows} rows, {len(examples.items)} examples, {examples.num_tokens} tokens "
        f"read, {examples.num_targets} predicted",
        *skipped,
        f"writes at most {num_bytes / 1e9:.3f} GB; its sums need twice that, "
        f"{recipe.memory_gb:g} GB in a pass",
    ]


def execute(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
) -> None:
    """Measure as a recipe says, into a statistics folder."""
    recipe = _parse(data, where)
    require("train")
    from smelt.checkpoint.reader import local_path
    from smelt.models.load import load_model, pick_device
    from smelt.models.statistics import Options, measure

    chosen = pick_device(device)
    checkpoint, examples = _inputs(recipe, where, seed=seed)
    inputs = {"model": local_path(recipe.model), "data": recipe.data}
    content = recipe.model_dump(mode="json") | {"model": inputs["model"]}
    run = Run(out, "statistics", content, inputs, seed=seed, replace=replace)
    if run.done:
        return
    with run:
        options = Options(
            kind=recipe.kind,
            labels=recipe.labels,
            draws=recipe.draws,
            memory_bytes=int(recipe.memory_gb * 1e9),
            seed=seed,
        )
        model = load_model(checkpoint.folder, chosen)
        path = Path(recipe.data)
        done = measure(model, checkpoint, examples, path, run.folder, options)
        run.note(
            kind=done.kind, rows=done.rows, examples=done.examples, tokens=done.tokens,
            skipped=done.skipped, tensors=len(done.tensors), left_out=done.left_out,
        )  # fmt: skip


def _parse(data: dict[str, Any], where: str) -> "StatisticsRecipe":
    from smelt.models.recipe import StatisticsRecipe

    recipe = config.parse(StatisticsRecipe, data, where, "smelt statistics --help")
    if recipe.kind == "gram":
        for key, default in (("labels", "sampled"), ("draws", 1)):
            if vars(recipe)[key] != default:
                raise UserError(f"{where}: {key}", "a gram matrix has none", "kind fisher")
    elif recipe.labels == "data" and recipe.draws != 1:
        raise UserError(f"{where}: draws", "labels of the data are not drawn", "labels sampled")
    return recipe


def _inputs(recipe: "StatisticsRecipe", where: str, *, seed: int) -> "tuple[Checkpoint, Examples]":
    """The opened model and the examples to measure on: everything that can be refused."""
    from smelt.checkpoint.reader import Checkpoint
    from smelt.checkpoint.tokenizer import open_tokenizer
    from smelt.models.examples import choose, read_rows
    from smelt.models.load import check_rows, context_of

    checkpoint = Checkpoint.open(recipe.model)
    tokenizer = open_tokenizer(checkpoint.folder)
    check_rows(checkpoint.config, tokenizer, f"{where}: model")
    examples = choose(
        read_rows(Path(recipe.data)),
        tokenizer,
        context=min(recipe.context, context_of(checkpoint.config)),
        limit=recipe.limit,
        max_tokens=recipe.max_tokens,
        seed=seed,
    )
    return checkpoint, examples
