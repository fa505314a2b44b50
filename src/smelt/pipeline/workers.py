"""One process per job: threads pinned, progress sent home, gone when the parent is gone."""

import multiprocessing as mp
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import SpawnProcess
from typing import Any

from smelt.core import progress
from smelt.core.errors import UserError

Job = tuple[Any, ...]
Function = Callable[..., None]


class WorkerDefect(Exception):  # noqa: N818 (never raised by itself)
    """The traceback of a worker's defect, as the cause of the error raised here."""


def _follow_parent() -> None:
    """A killed parent takes the worker with it: an orphan would hold the locks of the results."""
    parent = mp.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(2)


def _work(home: "Connection[Any, Any]", threads: int, function: Function, job: Job) -> None:
    """A worker's whole life: run one job, tell how it ended."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    progress.report_to(lambda event: home.send(("progress", event)))
    try:
        import torch

        torch.set_num_threads(threads)
        function(*job)
    except BaseException as error:
        home.send(("failed", _portable(error), traceback.format_exc()))
    else:
        home.send(("done",))


def _portable(error: BaseException) -> BaseException:
    """The error itself if it survives the way home, else its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _start(
    threads: int, function: Function, job: Job
) -> tuple["Connection[Any, Any]", SpawnProcess]:
    """Start a worker, with SIGINT blocked in it from its first instruction on: Ctrl-C reaches the
    whole process group, and the parent alone answers it."""
    context = mp.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, threads, function, job))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    there.close()
    return here, process


def _receive(connection: "Connection[Any, Any]", process: SpawnProcess) -> bool:
    """Take one message of a worker; True when it was the last. Raises what the worker raised."""
    try:
        kind, *rest = connection.recv()
    except EOFError:
        process.join()
        how = f"a worker ended without a word (exit code {process.exitcode})"
        what = "enough memory for all workers"
        raise UserError("smelt run", how, what, "--set workers=1; finished stages stay") from None
    if kind == "progress":
        progress.emit(rest[0])
        return False
    if kind == "failed":
        error, text = rest
        if isinstance(error, UserError):
            raise error
        raise error from WorkerDefect(text)
    return True


def run_jobs(function: Function, jobs: list[Job], *, workers: int, threads: int) -> None:
    """Call `function(*job)` for every job, each in a process of its own, `workers` at a time.

    The first failure is raised here once the others have been stopped; what they publish is
    published by one rename, so nothing is half done.
    """
    from multiprocessing import resource_tracker

    # numpy and OpenMP read this before anything can be set from Python.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    resource_tracker.ensure_running()  # its start would unblock SIGINT in between
    waiting = list(reversed(jobs))
    running: dict[Connection[Any, Any], SpawnProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                connection, process = _start(threads, function, waiting.pop())
                running[connection] = process
            ready = wait_for(list(running))
            for connection in [one for one in running if one in ready]:
                if _receive(connection, running[connection]):
                    running.pop(connection).join()
                    connection.close()
    finally:
        for process in running.values():
            process.terminate()
        for connection, process in running.items():
            process.join()
            connection.close()
