"""llama.cpp as a child: it answers, it is gone afterwards, and what it cannot load is an error."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smelt.core.errors import UserError
from smelt.export import runtime
from smelt.export.targets.gguf import gguf

PROBE = 40


@pytest.fixture(scope="module")
def file(picos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf(picos["byte_bpe"], tmp_path_factory.mktemp("runtime") / "m.gguf", quantize="f32")


def children() -> set[int]:
    """Process ids of the runtimes that this process started and that still live."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
            command = (path.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(parent) == os.getpid() and "smelt.models.llama_server" in command:
            found.add(int(path.parent.name))
    return found


def answers(running: runtime.Runtime) -> bool:
    try:
        return bool(running.tokenize("a"))
    except UserError:
        return False


def test_answers_and_ends(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with runtime.start(file, num_ctx=64) as running:
        assert len(children()) == 1
        ids, pieces = running.tokenize("ab 12\n")
        assert b"".join(pieces) == b"ab 12\n"
        written = running.generate(ids, 4)
        assert 1 <= len(written) <= 4
        found = running.logprobs(ids, 400, PROBE)
        assert sum(math.exp(value) for value in found.values()) == pytest.approx(1, abs=1e-5)
        assert max(found, key=found.__getitem__) == written[0]
        assert found == running.logprobs(ids, 400, PROBE + 1)  # the forced token leaves no trace
    assert not children()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("x", "y")])
def test_ends_after_errors(file: Path, error: BaseException) -> None:
    with pytest.raises((KeyboardInterrupt, UserError)), runtime.start(file, num_ctx=64):
        raise error
    assert not children()


def test_ends_when_the_parent_is_killed(file: Path) -> None:
    code = (
        "import sys, time, pathlib\nfrom smelt.export import runtime\n"
        "with runtime.start(pathlib.Path(sys.argv[1]), num_ctx=64) as running:\n"
        "    print(running.address, flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    running = runtime.Runtime(parent.stdout.readline().strip(), file)
    assert running.tokenize("a")[0]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while answers(running) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not answers(running)


def test_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match="cannot load it"), runtime.start(path):
        pass
    assert not children()


def test_refused_request(file: Path) -> None:
    with runtime.start(file, num_ctx=64) as running, pytest.raises(UserError, match="refused"):
        running.generate([5] * 5000, 1)
