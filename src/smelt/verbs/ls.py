"""List plug-ins: the kinds, or all of one kind with a line each."""

from typing import Annotated

import typer

from smelt.core import registry

Kind = Annotated[str | None, typer.Argument(metavar="KIND", help="Kind of plug-in.")]


def ls(kind: Kind = None) -> None:
    """Print the kinds of plug-ins, or the names and first lines of one kind."""
    if kind is None:
        for name in registry.KINDS:
            print(f"{name:18} {', '.join(registry.names(name))}")
        return
    for name in registry.names(kind):
        print(f"{name:18} {registry.summary(kind, name)}")
