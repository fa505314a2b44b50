"""The command line: one command for each file in `verbs/`; user errors end with code 2."""

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    import typer

# Nothing here phones home; these must be set before any library that would is imported.
for _variable in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

INTERRUPTED = (
    "error: interrupted: nothing unfinished was published. Next: the same command continues."
)
SIGINT_CODE = 130  # what typer makes of a KeyboardInterrupt


def _stub() -> None:
    """Stands for a verb that is listed, not called."""


def app_for(arguments: list[str]) -> "typer.Typer":
    """The application with every verb listed; only the file of the called one is imported."""
    import typer

    from smelt import __version__
    from smelt.core import registry

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

    called = next((word for word in arguments if not word.startswith("-")), None)
    for name in registry.names("verb"):
        function = registry.load("verb", name) if name == called else _stub
        text = registry.doc("verb", name)
        short = (text.splitlines() or [""])[0]
        app.command(name, help=text, short_help=short)(function)
    return app


def _ask_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python prints and forgets an interrupt that falls into a callback, and imports run many:
    deliver it once more, a moment later."""
    if unraisable.exc_type is KeyboardInterrupt:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(unraisable)


@contextmanager
def _interrupts() -> "Iterator[list[int]]":
    """A list that an interrupt adds to before it is raised. Libraries that are interrupted while
    they are imported raise errors of their own instead, which then mean no more than that."""
    from smelt.core import progress

    pressed: list[int] = []
    progress.watch(pressed)

    def press(number: int, frame: "FrameType | None") -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # started in the background: SIGINT is ignored
        yield pressed
        return
    hook, sys.unraisablehook = sys.unraisablehook, _ask_again
    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook
        progress.watch([])


def _fail(line: str) -> None:
    """Print the one line of an error on a clean terminal, and stop with code 2."""
    if "smelt.core.progress" in sys.modules:
        from smelt.core import progress

        progress.close()
    print(line, file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a defect of ours, 2 what the user can mend."""
    from smelt.core.errors import UserError, missing_package, refusal
    from smelt.core.limits import allow_open_files

    allow_open_files()
    with _interrupts() as pressed:
        try:
            app_for(sys.argv[1:])(prog_name="smelt", standalone_mode=True)
        except UserError as error:
            _fail(INTERRUPTED if pressed else f"error: {error}")
        except KeyboardInterrupt:
            _fail(INTERRUPTED)
        except SystemExit as stop:
            if stop.code != SIGINT_CODE:
                raise
            _fail(INTERRUPTED)
        except Exception as error:  # a defect, with its traceback, unless we know better
            told = missing_package(error) or refusal(error, "smelt")
            if pressed:
                _fail(INTERRUPTED)
            if told is None:
                raise
            _fail(f"error: {told}")
