"""The command line: one command for each file in `verbs/`; user errors end with code 2."""

import os
import sys

from smelt import __version__
from smelt.core import registry
from smelt.core.errors import UserError

# Nothing here phones home; these must be set before any library that would is imported.
for _variable in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _app() -> "typer.Typer":  # noqa: F821
    import typer

    app = typer.Typer(
        name="smelt",
        help="Small reasoning models, melted together.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback(invoke_without_command=True)
    def version(
        version: bool = typer.Option(False, "--version", help="Print the version and stop."),
    ) -> None:
        if version:
            print(__version__)
            raise typer.Exit

    for name in registry.names("verb"):
        app.command(name, help=registry.doc("verb", name))(registry.load("verb", name))
    return app


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a defect of ours, 2 something the user can mend."""
    try:
        _app()(standalone_mode=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "error: interrupted: nothing unfinished was published. "
            "Next: the same command continues.",
            file=sys.stderr,
        )
        sys.exit(2)
