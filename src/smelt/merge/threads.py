"""The threads that work on tensors side by side."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


def num_threads() -> int:
    """Threads of a merge: OMP_NUM_THREADS if set, else the cores that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


@contextmanager
def worker_threads(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that start nothing new once their user is left, by an error or Ctrl-C too."""
    pool = ThreadPoolExecutor(threads, name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
