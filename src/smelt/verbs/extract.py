"""Turn a fine-tuned model into a LoRA adapter of its base, in PEFT's format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smelt.core import config
from smelt.verbs._options import OutFolder, OutOption, Settings, out_folder

if TYPE_CHECKING:
    from smelt.merge.lora.extract import Extraction

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="The fine-tuned model: folder or hub name.")
]
Base = Annotated[str, typer.Option("--base", help="The model that it was tuned from.")]
Rank = Annotated[int, typer.Option("--rank", help="Largest rank of a tensor.")]
Energy = Annotated[
    float | None,
    typer.Option(
        "--energy",
        metavar="SHARE",
        help="Smallest rank that keeps this share of a tensor's change.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", metavar="PATTERN", help="Regex: leave out tensors in whose name it is found."
    ),
]
Save = Annotated[
    list[str] | None,
    typer.Option(
        "--save", metavar="PATTERN", help="Regex: store the layers of such tensors whole."
    ),
]


def extract(
    model: Model,
    out: OutFolder = None,
    *,
    base: Base,
    rank: Rank = 32,
    energy: Energy = None,
    exclude: Exclude = None,
    save: Save = None,
    out_option: OutOption = None,
    settings: Settings = None,
) -> None:
    """Extract one adapter, e.g. `smelt extract TUNED OUT --base BASE --rank 64 --energy 0.9`."""
    data: dict[str, Any] = {
        "model": model,
        "base": base,
        "rank": rank,
        "energy": energy,
        "exclude": exclude or [],
        "save": save or [],
    }
    data = config.override(data, settings or [], "smelt extract")
    execute(data, out_folder(out, out_option, "extract"), where="smelt extract")


def execute(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
) -> None:
    """Extract as a recipe says. Nothing is random and the CPU does the work."""
    from smelt.checkpoint.folder import copy_tokenizer
    from smelt.core import progress
    from smelt.core.run import Run
    from smelt.merge.lora import extract_record
    from smelt.merge.lora.adapter_folder import write_adapter
    from smelt.merge.lora.extract import contents, plan

    job = plan(data, where)
    inputs = _inputs(job)
    run = Run(out, "extract", job.recipe_data(), inputs, seed=seed, replace=replace)
    if run.done:
        return
    for text in job.warnings:
        progress.say(f"warning: {text}")
    base_name = run.relative(job.base_name())
    with run:
        found = contents(job)
        notes = extract_record.facts(job, found, write_adapter(job, found, run.folder, base_name))
        copy_tokenizer(job.model.folder, run.folder)
        run.note(**notes)
        text = extract_record.card(run.record, base_name)
        (run.folder / "README.md").write_text(text, encoding="utf-8")
    for line in extract_record.lines(notes):
        progress.say(line)


def shape(data: dict[str, Any], *, where: str) -> None:
    """Validate keys only: what can be known before the inputs exist."""
    from smelt.merge.lora.extract import ExtractRecipe

    config.parse(ExtractRecipe, data, where, "smelt extract --help")


def check(data: dict[str, Any], *, where: str) -> list[str]:
    """Validate both models without reading a tensor; lines about what would be read."""
    from smelt.merge.lora.extract import plan

    job = plan(data, where)
    matrices = [name for name in job.names if len(job.base.spec(name).shape) == 2]
    size = 2 * sum(job.base.spec(name).num_bytes for name in job.names)
    largest = max((min(job.base.spec(name).shape) for name in matrices), default=0)
    return [
        f"{len(job.names)} tensors, {len(matrices)} matrices, rank at most {job.recipe.rank}",
        f"reads {size / 1e9:.3f} GB twice; the largest eigenvalue problem has {largest} rows",
        *(f"warning: {text}" for text in job.warnings),
    ]


def _inputs(job: "Extraction") -> dict[str, str]:
    """Input name (base, model, model-lora) -> folder."""
    models = (("base", job.base), ("model", job.model))
    return {
        name + suffix: str(folder.absolute())
        for name, model in models
        for suffix, folder in model.folders().items()
    }
