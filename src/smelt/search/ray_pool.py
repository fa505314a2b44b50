"""Measuring in several processes, on one machine or many, by Ray."""

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smelt.core.errors import UserError, needs
from smelt.search.measured import Answer
from smelt.search.workers import answer

if TYPE_CHECKING:
    from smelt.search.workers import Measure

# Ray holds results there, which are small; by default it takes a third of the memory.
OBJECT_STORE_BYTES = 100 * 2**20
ENDED = "the worker ended while it measured this candidate"


class Worker:
    """What runs in a process of Ray: a measure, built on the first call."""

    def __init__(self, build: "Callable[[], Measure]", folder: str, threads: int) -> None:
        if Path(folder).is_dir():  # relative paths mean the same as where the search was started
            os.chdir(folder)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
        self._build = build
        self._measure: Measure | None = None

    def ready(self) -> UserError | None:
        """Build; the error, if the user can mend it."""
        try:
            self._measure = self._build()
        except UserError as problem:
            return problem
        return None

    def measure(self, genome: list[float], items: list[int]) -> Answer:
        """Values of a candidate, or why there are none."""
        if self._measure is None:
            self._measure = self._build()
        return answer(self._measure, genome, items)


class RayPool:
    """Actors of Ray. One that dies is started again and measures its candidate once more; a
    candidate that ends two of them is answered with an error."""

    def __init__(self, build: "Callable[[], Measure]", workers: int, address: str | None) -> None:
        # Read when Ray is imported: it reports usage, and warns of what is our choice.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise needs("scale", "ray") from error
        self.workers = workers
        self._ray: Any = ray
        # Ray has an error of its own for a worker that it ended for want of memory.
        self._died = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)
        self._build = build
        stop = signal.getsignal(signal.SIGTERM)
        try:
            cores = self._connect(workers, address)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, stop)  # Ray puts its own in place of the command's
        self._threads = max(1, cores // workers)
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        # One core reserved whatever the threads, so that workers fit however cores are spread.
        self._class = ray.remote(
            num_cpus=1, num_gpus=gpu_share(gpus, workers), scheduling_strategy="SPREAD"
        )(Worker)
        self._running: dict[Any, tuple[int, list[float], list[int], Any, bool]] = {}
        try:
            self._idle = [self._start() for _ in range(workers)]
            for problem in ray.get([worker.ready.remote() for worker in self._idle]):
                if problem is not None:
                    raise problem
        except self._died as error:
            self.close()
            found = "a worker ended while it loaded the models"
            raise UserError("search.workers", found, "fewer workers, or more memory") from error
        except BaseException:
            self.close()
            raise

    def _connect(self, workers: int, address: str | None) -> int:
        """Start a cluster of our own or join one; the number of its cores."""
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address is None:
            cores = len(os.sched_getaffinity(0))
            self._ray.init(
                **quiet, num_cpus=max(cores, workers), include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
            )  # fmt: skip
            return cores
        try:
            _reach(address)
            self._ray.init(**quiet, address=address)
        except (OSError, ValueError, RuntimeError) as error:
            reason = f"Ray: {error}".partition("\n")[0]
            raise UserError("search.address", reason, "a cluster that answers") from error
        cores = int(self._ray.cluster_resources().get("CPU", 0))
        if cores < workers:
            self.close()
            raise UserError("search.workers", f"{cores} cores in the cluster", f"{workers}")
        return cores

    def _start(self) -> Any:
        return self._class.remote(self._build, os.getcwd(), self._threads)

    def submit(self, candidate: int, genome: list[float], items: list[int]) -> None:
        """Give a candidate to an idle worker."""
        self._send(self._idle.pop(), candidate, genome, items, False)

    def _send(
        self, worker: Any, candidate: int, genome: list[float], items: list[int], again: bool
    ) -> None:
        call = worker.measure.remote(genome, items)
        self._running[call] = candidate, genome, items, worker, again

    def finished(self) -> tuple[int, Answer]:
        """Wait for the next result."""
        while True:
            (call, *_), _ = self._ray.wait(list(self._running), num_returns=1)
            candidate, genome, items, worker, again = self._running.pop(call)
            try:
                found = self._ray.get(call)
            except self._died:
                worker = self._start()
                if not again:
                    self._send(worker, candidate, genome, items, True)
                    continue
                found = ENDED
            self._idle.append(worker)
            return candidate, found

    def close(self) -> None:
        """End the workers, and the cluster where it is our own."""
        self._ray.shutdown()


def gpu_share(gpus: int, workers: int) -> float:
    """What each worker takes of a GPU, so that all of them fit; 0 where there are none."""
    return 1 / math.ceil(workers / gpus) if gpus else 0.0


def _reach(address: str) -> None:
    """Raise OSError when nobody listens at a host and port: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
