"""One self-contained HTML page (tables, plots, lineage, samples, cost) from result folders."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from smelt.core.progress import say


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Result folders, or pipeline folders.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="The page to write.")],
) -> None:
    """Write the page; a report of the same name is replaced, any other file is refused."""
    from smelt.report.page import write_report

    command = shlex.join(["smelt", "report", *map(str, runs), "--out", str(out)])
    write_report(runs, out, command=command)
    say(f"report: wrote {out}")
