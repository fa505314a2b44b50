"""Write a checkpoint as GGUF for llama.cpp, and prove that the file behaves as the checkpoint."""

from pathlib import Path
from typing import Annotated, Any

import typer

from smelt.core import config
from smelt.core.errors import require
from smelt.verbs._options import Device, OutFolder, OutOption, Settings, out_folder

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder.")]
Targets = Annotated[
    list[str] | None, typer.Option("--target", help="Export target (smelt ls export-target).")
]
Types = Annotated[
    list[str] | None, typer.Option("--quantize", help="Type of the weights; repeat for several.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what llama.cpp prints.")]


def export(
    model: Model,
    out: OutFolder = None,
    *,
    out_option: OutOption = None,
    target: Targets = None,
    quantize: Types = None,
    device: Device = "cpu",
    settings: Settings = None,
    verbose: Verbose = False,
) -> None:
    """Export one model: one file for each target and type of weights."""
    data: dict[str, Any] = {
        "model": model,
        "targets": [
            {"name": name} | ({"quantize": kind} if kind else {})
            for name in target or ["gguf"]
            for kind in quantize or [""]
        ],
    }
    data = config.override(data, settings or [], "smelt export")
    folder = out_folder(out, out_option, "export")
    execute(data, folder, where="smelt export", device=device, verbose=verbose)


def execute(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
    verbose: bool = False,
) -> None:
    """Export as a recipe says: {model, targets: [{name, quantize}], parity: {prompts}}."""
    job = _job()
    made = job.plan(data, where)
    job.export(made, out, seed=seed, device=device, replace=replace, verbose=verbose)


def shape(data: dict[str, Any], *, where: str) -> None:
    """Validate keys only: what can be known before the inputs exist."""
    from smelt.export import recipe

    require("export")
    recipe.read(data, where)


def check(data: dict[str, Any], *, where: str) -> list[str]:
    """Validate an export recipe and its model, and say what it would write."""
    job = _job()
    lines: list[str] = job.describe(job.plan(data, where))
    return lines


def _job() -> Any:
    """The job, imported late (it needs torch). Raises UserError without the extras it needs."""
    require("export")
    require("train")
    from smelt.export import job

    return job
