"""Compare models before a merge: task vectors by layer and block, likely ancestry, differences."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smelt.core.errors import UserError
from smelt.core.names import short_names

if TYPE_CHECKING:
    from smelt.merge.model import Model

Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL", help="Checkpoint folders, hub names, or model+adapter."),
]
Base = Annotated[
    str | None, typer.Option("--base", metavar="MODEL", help="The model that they were tuned from.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Also write inspect.html and inspect.json there."),
]
Layers = Annotated[bool, typer.Option("--layers", help="A row for each layer, not each third.")]
RECORD, PAGE = "inspect.json", "inspect.html"


def inspect(models: Models, *, base: Base = None, out: Out = None, layers: Layers = False) -> None:
    """Print how models relate, e.g. `smelt inspect math code --base base --out look`."""
    record = measure(models, base) if out is None else execute(models, base, out)
    from rich.console import Console

    from smelt.report.inspect_table import print_record

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=120)
    print_record(record, console, layers=layers)


def measure(models: list[str], base: str | None) -> dict[str, Any]:
    """The record of a comparison (see `merge.diagnose.inspect`)."""
    from smelt.merge.kinship import diagnose

    opened, label = _open(models, base)
    return diagnose.inspect(opened, label)


def execute(
    models: list[str], base: str | None, out: Path, *, replace: bool = False
) -> dict[str, Any]:
    """The same, kept in a result folder as inspect.json and inspect.html. Gives the record."""
    from smelt.core.run import Run
    from smelt.merge.kinship import diagnose
    from smelt.report import inspect_page

    inspect_page.require()
    opened, label = _open(models, base)
    folders = {
        name: {kind: str(folder.absolute()) for kind, folder in model.folders().items()}
        for name, model in opened.items()
    }
    inputs = {name + kind: path for name, own in folders.items() for kind, path in own.items()}
    run = Run(out, "inspect", {"models": folders, "base": label}, inputs, replace=replace)
    if run.done:
        record: dict[str, Any] = json.loads((run.out / RECORD).read_text(encoding="utf-8"))
        return record
    with run:
        record = diagnose.inspect(opened, label)
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
        (run.folder / RECORD).write_text(text + "\n", encoding="utf-8")
        shown = {name: "+".join(run.relative(own).values()) for name, own in folders.items()}
        words = [shown[name] for name in opened if name != label]
        words += ["--base", shown[label]] if label is not None else []
        command = shlex.join(["smelt", "inspect", *words, "--out", run.out.name])
        page = inspect_page.render(record, command=command)
        (run.folder / PAGE).write_text(page, encoding="utf-8")
        families = [
            {key: family[key] for key in ("models", "base", "confidence")}
            for family in record["ancestry"]["families"]
        ]
        run.note(families=families, refused=record["refused"], warnings=record["differences"])
    return record


def _open(models: list[str], base: str | None) -> "tuple[dict[str, Model], str | None]":
    """The models by short names, the base first, and the base's name. Raises UserError."""
    from smelt.merge.model import Model

    texts = list(dict.fromkeys([*([base] if base is not None else []), *models]))
    if len(texts) < 2:
        raise UserError("smelt inspect", "one model", "two models, or one and its --base")
    opened = {text: Model.open(text) for text in texts}
    seen: dict[tuple[Path, ...], str] = {}
    for text, model in opened.items():
        folders = tuple(folder.resolve() for folder in model.folders().values())
        if folders in seen:
            found = f"'{seen[folders]}' and '{text}' are the same model"
            raise UserError("smelt inspect", found, "each model once")
        seen[folders] = text
    names = short_names(texts)
    return {names[text]: model for text, model in opened.items()}, names[base] if base else None
