"""Progress with an ETA: bars on a terminal, lines elsewhere, messages from worker processes.

Every part of smelt reports to the one sink of its process, so that a verb shows the same thing
whether it runs alone or as one of many stages in a worker.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
Event = tuple[Any, ...]
"""("say", text) | ("start", bar, label, total) | ("move", bar, n) | ("note", bar, text) |
("end", bar)"""

LINE_EVERY_SECONDS = 15.0


class Lines:
    """Plain lines for logs and pipes: a bar prints at most every 15 seconds, and when it ends."""

    def __init__(self) -> None:
        self.bars: dict[Any, tuple[str, float, float, float, float]] = {}
        self.notes: dict[Any, str] = {}

    def __call__(self, event: Event) -> None:
        kind, *rest = event
        now = time.monotonic()
        if kind == "say":
            print(rest[0], file=sys.stderr, flush=True)
        elif kind == "start":
            self.bars[rest[0]] = (rest[1], rest[2], 0.0, now, now)
        elif kind == "move" and rest[0] in self.bars:
            label, total, count, begun, shown = self.bars[rest[0]]
            count += rest[1]
            if now - shown >= LINE_EVERY_SECONDS and count:
                left = (now - begun) / count * (total - count)
                print(
                    f"{label}: {count:.0f}/{total:.0f}, {left:.0f} s left{self.note(rest[0])}",
                    file=sys.stderr,
                    flush=True,
                )
                shown = now
            self.bars[rest[0]] = (label, total, count, begun, shown)
        elif kind == "note" and rest[0] in self.bars:
            self.notes[rest[0]] = rest[1]
        elif kind == "end":
            self.bars.pop(rest[0], None)
            self.notes.pop(rest[0], None)

    def note(self, bar: Any) -> str:
        """What the work last said about itself, to stand at the end of a line."""
        return f", {self.notes[bar]}" if bar in self.notes else ""

    def close(self) -> None:
        """Forget all bars."""
        self.bars.clear()
        self.notes.clear()


class Bars:
    """Rich progress bars with elapsed and remaining time."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self.tasks: dict[Any, Any] = {}

    def __call__(self, event: Event) -> None:
        kind, *rest = event
        if kind == "say":
            self.progress.console.print(rest[0], markup=False, highlight=False)
        elif kind == "start":
            if not self.tasks:
                self.progress.start()
            self.tasks[rest[0]] = self.progress.add_task(rest[1], total=rest[2], note="")
        elif kind == "move" and rest[0] in self.tasks:
            self.progress.update(self.tasks[rest[0]], advance=rest[1])
        elif kind == "note" and rest[0] in self.tasks:
            self.progress.update(self.tasks[rest[0]], note=rest[1])
        elif kind == "end" and rest[0] in self.tasks:
            self.progress.remove_task(self.tasks.pop(rest[0]))
            if not self.tasks:
                self.progress.stop()

    def close(self) -> None:
        """Take all bars off the terminal (those of a stopped worker never end by themselves)."""
        for task in self.tasks.values():
            self.progress.remove_task(task)
        self.tasks.clear()
        self.progress.stop()


_sink: Callable[[Event], object] | None = None
_counter = 0


def report_to(sink: Callable[[Event], object]) -> None:
    """Send this process's progress to `sink` (a worker passes its pipe's `send`)."""
    global _sink
    _sink = sink


def close() -> None:
    """Leave the terminal clean: called before the last line of a command that failed."""
    if isinstance(_sink, Bars | Lines):
        _sink.close()


_pressed: list[int] = []


def watch(pressed: list[int]) -> None:
    """Take notice of an interrupt that was lost: libraries with a bare `except` around an import
    swallow it. What stands in the list is raised again at the next step of a bar."""
    global _pressed
    _pressed = pressed


def emit(event: Event) -> None:
    """Hand an event to the sink of this process, made on first use."""
    global _sink
    if _pressed and event[0] in ("start", "move"):
        raise KeyboardInterrupt
    if _sink is None:
        _sink = Bars() if sys.stderr.isatty() else Lines()
    _sink(event)


def say(text: str) -> None:
    """One line for the person who waits."""
    emit(("say", text))


class Bar:
    """A bar of `total` steps; a context manager, so that it ends whatever happens."""

    def __init__(self, label: str, total: float, done: float = 0) -> None:
        global _counter
        _counter += 1
        self.key = (os.getpid(), _counter)
        emit(("start", self.key, label, total))
        if done:
            self.move(done)

    def move(self, steps: float = 1) -> None:
        """Advance by a number of steps."""
        emit(("move", self.key, steps))

    def note(self, text: str) -> None:
        """A few words that stand behind the bar until the next ones: the best so far."""
        emit(("note", self.key, text))

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        emit(("end", self.key))


def track(items: Iterable[Item], label: str, total: float) -> Iterator[Item]:
    """The items, with a bar that moves by one for each; nothing is shown without a label (a search
    asks thousands of times)."""
    if not label:
        yield from items
        return
    with Bar(label, total) as bar:
        for item in items:
            yield item
            bar.move()
