"""One process per seed: threads pinned, progress sent home, gone when the parent is gone."""

import multiprocessing as mp
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from multiprocessing.connection import wait as wait_for
from typing import Any

from smelt.core import progress

Job = tuple[Any, ...]


def _begin(queue: "mp.Queue[Any]", threads: int) -> None:
    """Start of a worker: progress goes to the queue; a killed parent takes the worker with it
    (an orphan would hold the locks of the result folders)."""
    progress.report_to(queue.put)
    parent = mp.parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(2)

    threading.Thread(target=follow, daemon=True).start()
    import torch

    torch.set_num_threads(threads)


def _listen(queue: "mp.Queue[Any]") -> None:
    while (event := queue.get()) is not None:
        progress.emit(event)


def run_jobs(function: Callable[..., None], jobs: list[Job], *, workers: int, threads: int) -> None:
    """Call `function(*job)` for every job in worker processes. The first failure is raised once
    the others have been stopped."""
    context = mp.get_context("spawn")
    queue = context.Queue()
    # numpy and OpenMP read this before anything can be set from Python.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    listener = threading.Thread(target=_listen, args=(queue,), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(workers, context, _begin, (queue, threads))
    try:
        futures = [pool.submit(function, *job) for job in jobs]
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        failed = [future for future in futures if future in done and future.exception()]
        if failed:
            _stop(pool)
            raise failed[0].exception()  # type: ignore[misc]
    except KeyboardInterrupt:
        _stop(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        queue.put(None)
        listener.join()


def _stop(pool: ProcessPoolExecutor) -> None:
    """End running workers; what they publish is published by one rename, so nothing is half done."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
