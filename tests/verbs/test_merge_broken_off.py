"""`smelt merge` that is killed, or whose disk is full: nothing half is published, and the same
command then gives the bytes of a merge that nothing disturbed."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smelt.checkpoint import writer
from smelt.checkpoint.reader import INDEX
from smelt.core import digest
from smelt.core.errors import UserError
from smelt.merge import plan as planner
from smelt.verbs.merge import merge
from tests.pico import pico_llama

RECIPE = """\
merge_method: ties
base_model: models/base
models:
  - model: models/math
    parameters: {weight: 0.7, density: [0.2, 0.8]}
  - model: models/code
"""
SHARD = 50_000  # bytes: several shards of several tensors each
ATTEMPT = """
import os, resource, signal, threading
from functools import partial

from smelt.checkpoint import writer
from smelt.cli import main
from smelt.merge import plan as planner

planner.plan = partial(planner.plan, max_shard_bytes={shard})
{fault}
main()
"""
KILL = """
place, lock, calls = writer.Writer.place, threading.Lock(), 0

def place_or_die(*arguments):
    global calls
    with lock:
        calls += 1
        if calls == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
        place(*arguments)

writer.Writer.place = place_or_die
"""
NO_SPACE_RESERVED = "writer._ALLOCATE = lambda *arguments: None"
LIMIT = "resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models, a recipe, and the undisturbed merge `whole`, all in small shards."""
    for seed, name in enumerate(("base", "math", "code")):
        pico_llama(tmp_path / "models" / name, seed=seed)
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planner, "plan", partial(planner.plan, max_shard_bytes=SHARD))
    merge("r.yaml", Path("whole"))
    return tmp_path


def attempt(fault: str) -> subprocess.CompletedProcess[str]:
    """`smelt merge r.yaml out` in a process of its own that meets a fault."""
    code = ATTEMPT.format(shard=SHARD, fault=fault)
    command = [sys.executable, "-c", code, "merge", "r.yaml", "out"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def shard_sizes(home: Path) -> list[int]:
    """Tensors of each shard, in the order in which they are written."""
    placed = json.loads((home / "whole" / INDEX).read_text())["weight_map"]
    return [count for _, count in sorted(Counter(placed.values()).items())]


def weights(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> inode and time of change of each finished shard."""
    found = {path.name: path.stat() for path in folder.glob("*.safetensors")}
    return {name: (state.st_ino, state.st_mtime_ns) for name, state in sorted(found.items())}


def ends_like_the_whole(home: Path) -> None:
    """The same command without the fault; its second attempt is counted."""
    assert not (home / "out").exists(), "something unfinished was published"
    merge("r.yaml", Path("out"))
    assert digest.files(home / "out") == digest.files(home / "whole")
    assert sorted(path.name for path in home.iterdir()) == ["models", "out", "r.yaml", "whole"]
    assert json.loads((home / "out/cost.json").read_text())["attempts"] == 2


@pytest.mark.parametrize("moment", ["first", "middle", "later", "last"])
def test_killed_merge_run_again_gives_the_same_bytes(home: Path, moment: str) -> None:
    """SIGKILL from within, before the n-th piece is put into its place."""
    sizes = shard_sizes(home)
    assert len(sizes) > 2
    assert min(sizes[0], sizes[2]) > 1
    finished, call = {
        "first": (0, 1),
        "middle": (0, 2),
        "later": (2, sizes[0] + sizes[1] + 2),
        "last": (len(sizes) - 1, sum(sizes)),
    }[moment]
    killed = attempt(KILL.format(call=call))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = home / "out.partial"
    names = list(weights(home / "whole"))
    before = weights(left)
    assert list(before) == names[:finished]
    unfinished = [path.name for path in left.glob("*.unfinished")]
    assert unfinished == [names[finished] + ".unfinished"]
    ends_like_the_whole(home)
    after = weights(home / "out")
    assert {name: after[name] for name in before} == before, "a finished shard was written again"


def _full(*_arguments: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full_after(calls: int) -> Callable[..., int]:
    """A `pwrite` that succeeds so many times, in a thread of the pool."""
    real, left = os.pwrite, iter(range(calls))

    def pwrite(*arguments: Any) -> int:
        assert threading.current_thread().name.startswith("merge")
        if next(left, None) is None:
            _full()
        return real(*arguments)

    return pwrite


@pytest.mark.parametrize("moment", ["reserving", "first piece", "later piece"])
def test_a_full_disk_is_one_error_and_the_same_command_continues(
    home: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    sizes = shard_sizes(home)
    with monkeypatch.context() as fault:
        if moment == "reserving":
            fault.setattr(writer, "_ALLOCATE", _full)
        else:
            fault.setattr(os, "pwrite", _full_after(0 if "first" in moment else sizes[0] + 1))
        with pytest.raises(UserError) as raised:
            merge("r.yaml", Path("out"))
    assert raised.value.where == str(home / "out.partial")
    assert raised.value.found == "No space left on device"
    assert raised.value.next_step == "mend it; the same command continues"
    assert len(weights(home / "out.partial")) == (1 if "later" in moment else 0)
    ends_like_the_whole(home)


def test_a_disk_that_takes_less_than_it_is_given_gives_the_same_bytes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = os.pwrite, []

    def pwrite(file: int, data: memoryview, position: int) -> int:
        asked.append(len(data))
        return real(file, data[:1000], position)

    monkeypatch.setattr(os, "pwrite", pwrite)
    merge("r.yaml", Path("out"))
    assert max(asked) > 1000
    assert digest.files(home / "out") == digest.files(home / "whole")


@pytest.mark.parametrize("moment", ["reserving", "writing"])
def test_a_real_limit_on_file_sizes_ends_the_command_with_one_line(home: Path, moment: str) -> None:
    """The kernel refuses: at once where space is reserved, else in the middle of a piece."""
    fault = LIMIT.format(size=20_000)  # Python ignores the signal that comes with it
    if moment == "writing":
        fault += "\n" + NO_SPACE_RESERVED
    ended = attempt(fault)
    assert ended.returncode == 2, ended.stderr
    where = home / "out.partial"
    line = f"error: {where}: File too large. Next: mend it; the same command continues\n"
    assert ended.stderr == line
    assert ended.stdout == ""
    (unfinished,) = where.glob("*.unfinished")
    size = unfinished.stat().st_size
    assert size == 20_000 if moment == "writing" else size < 20_000
    ends_like_the_whole(home)
