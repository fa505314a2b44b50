"""Workers: failures come home, others stop, nobody outlives the parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from smelt.core import progress
from smelt.core.errors import UserError
from smelt.pipeline.workers import WorkerDefect, run_jobs
from tests.pipeline import fakes


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends within some time (a zombie counts as ended)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def wait_for_text(path: Path, seconds: float = 30) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.is_file() and path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} never came")


def test_every_job_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    jobs = [(tmp_path / str(n), f"job{n}") for n in range(2)]
    run_jobs(fakes.write, jobs, workers=2, threads=3)
    found = [path.read_text().split() for path, _ in jobs]
    assert [row[0] for row in found] == ["job0", "job1"]
    assert len({row[1] for row in found} | {str(os.getpid())}) == 3
    assert {row[2] for row in found} == {"3"}


def test_a_user_error_comes_home_and_stops_the_others(tmp_path: Path) -> None:
    mark = tmp_path / "pid"

    def rest() -> None:
        with pytest.raises(UserError, match=r"stage x: wrong\. Expected right"):
            run_jobs(both, [("sleep", mark), ("fail", mark)], workers=2, threads=1)

    begun = time.monotonic()
    rest()
    assert time.monotonic() - begun < 40
    assert gone(int(mark.read_text()), 0.1)


def both(what: str, mark: Path) -> None:
    if what == "sleep":
        fakes.sleep(mark)
    wait_for_text(mark)
    raise UserError("stage x", "wrong", "right")


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="a defect") as caught:
        run_jobs(fakes.fail, [(ZeroDivisionError("a defect"),)], workers=1, threads=1)
    assert isinstance(caught.value.__cause__, WorkerDefect)
    assert "in fail" in str(caught.value.__cause__)
    assert "raise error" in str(caught.value.__cause__)


def test_a_defect_that_cannot_travel_comes_as_text() -> None:
    with pytest.raises(RuntimeError, match="OddError: odd thing") as caught:
        run_jobs(fakes.odd, [()], workers=1, threads=1)
    assert "in odd" in str(caught.value.__cause__)


def test_a_worker_that_the_system_killed_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ended without a word \(exit code -9\).*memory"):
        run_jobs(fakes.die, [(tmp_path,)], workers=1, threads=1)


def test_workers_leave_interrupts_to_the_parent(tmp_path: Path) -> None:
    run_jobs(fakes.interrupt_then_write, [(tmp_path / "mark",)], workers=1, threads=1)
    assert (tmp_path / "mark").read_text() == "done"


def test_an_interrupted_parent_stops_its_workers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "pid"

    def interrupt() -> None:
        wait_for_text(mark)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(fakes.sleep, [(mark,)], workers=1, threads=1)
    thread.join()
    assert gone(int(mark.read_text()), 0.1)
    assert "Traceback" not in capfd.readouterr().err


def test_a_killed_parent_takes_its_workers_with_it(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = (
        "from pathlib import Path\n"
        "from smelt.pipeline.workers import run_jobs\n"
        "from tests.pipeline import fakes\n"
        "if __name__ == '__main__':\n"
        f"    run_jobs(fakes.sleep, [(Path({str(mark)!r}),)], workers=1, threads=1)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], env={**os.environ, "PYTHONPATH": str(root)}
    )
    worker = int(wait_for_text(mark))
    parent.kill()
    parent.wait()
    assert gone(worker)


def show_progress(label: str) -> None:
    progress.say(f"hello from {label}")
    for _ in progress.track("abc", label, 3):
        pass


def test_progress_of_workers_reaches_the_sink_of_the_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[progress.Event] = []
    monkeypatch.setattr(progress, "_sink", events.append)
    run_jobs(show_progress, [("one",), ("two",)], workers=2, threads=1)
    said = sorted(event[1] for event in events if event[0] == "say")
    assert said == ["hello from one", "hello from two"]
    assert sum(event[0] == "move" for event in events) == 6
    # Bars of two workers are never taken for one.
    assert len({event[1] for event in events if event[0] == "start"}) == 2
