"""Tiny verbs and jobs for pipelines; in a module of their own, since workers import it by name."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smelt.core.errors import UserError
from smelt.core.run import Run


def add(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
) -> None:
    """A verb: the sum of its own number, its seed and the numbers of its inputs."""
    if data.get("fail") == seed:
        raise UserError(where, "asked to fail", "a pass")
    inputs = {name: path for name, path in data.items() if name.startswith("from")}
    run = Run(out, "add", data, inputs, seed=seed, replace=replace)
    if run.done:
        return
    with run:
        numbers = [json.loads((Path(p) / "sum").read_text()) for p in inputs.values()]
        (run.folder / "sum").write_text(str(sum(numbers) + data["number"] + seed))
        run.note(device=device, threads=os.environ["OMP_NUM_THREADS"])


def verb_of(name: str) -> Callable[..., None]:
    assert name == "add"
    return add


def write(path: Path, text: str) -> None:
    path.write_text(f"{text} {os.getpid()} {os.environ['OMP_NUM_THREADS']}")


def fail(error: BaseException) -> None:
    raise error


def sleep(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(60)


def interrupt_then_write(path: Path) -> None:
    """Ctrl-C in the worker alone (as a terminal sends it to every process of the group)."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
    path.write_text("done")


def die(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class OddError(Exception):
    """Cannot be unpickled: its constructor wants two arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def odd() -> None:
    raise OddError("odd thing", "two")
