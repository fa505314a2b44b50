"""Who measures candidates: this process, or several of them by Ray, on this machine or many."""

from collections import deque
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from smelt.core.errors import UserError
from smelt.search.measured import Answer

Measure = Callable[[list[float], list[int]], list[list[float]]]
"""Of a genome and the indices of items: [objective][item], more is better. Raises UserError for a
candidate that cannot be merged; values may be NaN."""


@runtime_checkable
class Pool(Protocol):
    """Takes measurements, at most `workers` at a time, and gives them back as they are done."""

    workers: int

    def submit(self, candidate: int, genome: list[float], items: list[int]) -> None:
        """Start to measure a candidate; only when fewer than `workers` are under way."""
        ...

    def finished(self) -> tuple[int, Answer]:
        """Wait for the next result: the candidate, its values or why it has none."""
        ...

    def close(self) -> None:
        """Stop what is under way and let go of the workers."""
        ...


def answer(measure: Measure, genome: list[float], items: list[int]) -> Answer:
    """The values, or what a UserError says without its path: journals are the same anywhere."""
    try:
        return measure(genome, items)
    except UserError as problem:
        return f"{problem.where.rpartition(': ')[2]}: {problem.found}"


class Here:
    """This process, one candidate after the other."""

    workers = 1

    def __init__(self, measure: Measure) -> None:
        self._measure: Measure | None = measure
        self._waiting: deque[tuple[int, list[float], list[int]]] = deque()

    def submit(self, candidate: int, genome: list[float], items: list[int]) -> None:
        """Remember it."""
        self._waiting.append((candidate, genome, items))

    def finished(self) -> tuple[int, Answer]:
        """Measure the one that waits longest."""
        assert self._measure is not None, "closed"
        candidate, genome, items = self._waiting.popleft()
        return candidate, answer(self._measure, genome, items)

    def close(self) -> None:
        """Nothing runs; the models are not held for the merge that follows."""
        self._measure = None


def pool(build: Callable[[], Measure], workers: int = 1, address: str | None = None) -> Pool:
    """Workers that each call `build` once and measure with what it gives.

    build: loads models and data; it goes to other processes (and machines, by `address` of a Ray
    cluster, `auto` for the one of this machine), so it holds settings and absolute paths, no model.
    Raises UserError when Ray is missing or not reached, or a worker cannot be built.
    """
    if workers == 1 and address is None:
        return Here(build())
    from smelt.search.ray_pool import RayPool

    return RayPool(build, workers, address)
