"""Get the data of benchmarks: from the hub by `datasets`, or made from a seed."""

from pathlib import Path
from typing import Annotated

import typer

from smelt.verbs._options import Seed

Names = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="Benchmarks, as `smelt ls benchmark` says.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Where NAME/SPLIT.jsonl.gz is written; else $SMELT_DATA or ~/.cache/smelt/data.",
    ),
]
Split = Annotated[
    str | None, typer.Option("--split", help="One split only; all that there are if not given.")
]


def fetch(names: Names, *, out: Out = None, split: Split = None, seed: Seed = 0) -> None:
    """Write the data files of benchmarks, e.g. `smelt fetch gsm8k bbh --out data`."""
    from smelt.core import progress, registry
    from smelt.evals.fetch import fetch as fetch_one
    from smelt.evals.rows import data_folder

    loaded = [(name, registry.load("benchmark", name)) for name in names]
    for name, benchmark in loaded:
        lines = fetch_one(
            name, benchmark, out or data_folder(), split=split, seed=seed, where="smelt fetch"
        )
        for line in lines:
            progress.say(line)
