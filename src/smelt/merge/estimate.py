"""Expected time and memory of a merge, from a sample of the method's own work on this machine."""

import heapq
import math
import time
import tracemalloc
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smelt.merge.blocks import BLOCK_ELEMENTS
from smelt.merge.method import merge_arrays
from smelt.merge.plan import MergePlan
from smelt.merge.sources import rows_and_columns
from smelt.merge.tensors import MERGED, TensorPlan
from smelt.merge.threads import num_threads

# Reading into memory and writing out of it, for data that the system has at hand.
_BYTES_PER_SECOND = 2.5e9
_SECONDS_PER_TENSOR = 3e-4
_STARTED_MB = 160.0
_COLUMNS = 1024
_SIDE = 256


@dataclass(frozen=True)
class Estimate:
    """CPU seconds (one core, files at hand), threads, and peak memory in MB."""

    seconds: float
    threads: int
    memory_mb: float

    def __str__(self) -> str:
        return (
            f"expected: about {max(1, round(self.seconds))} CPU s on {self.threads} threads and "
            f"{math.ceil(self.memory_mb / 10) * 10} MB of memory (extrapolated from a sample)"
        )


@dataclass(frozen=True)
class _Kind:
    """Tensors that cost the same per unit of work."""

    experts: int
    has_base: bool
    whole: bool
    """The method gets matrices as a whole."""
    dimensions: int
    wide: bool
    """Counted in float64."""
    extra: str | None
    """The statistics that all experts have of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample."""
        if self.dimensions < 2:
            return (BLOCK_ELEMENTS,)
        if self.whole:
            return (4, _SIDE // 2, _SIDE // 2) if self.dimensions > 2 else (_SIDE, _SIDE)
        return (BLOCK_ELEMENTS // _COLUMNS, _COLUMNS)

    def work(self, shape: tuple[int, ...]) -> float:
        """Matrices as a whole grow as their decompositions do, others with their elements."""
        rows, columns = rows_and_columns(shape)
        if not self.whole or self.dimensions < 2:
            return rows * columns
        if self.extra == "gram":  # a product with a Gram matrix, and its inverse
            return columns * columns * (rows + columns)
        return rows * columns * min(rows, columns)

    def held(self, shape: tuple[int, ...]) -> float:
        """Numbers that are held at a time for each of the models."""
        rows, columns = rows_and_columns(shape)
        if not self.whole:
            return min(rows, max(1, BLOCK_ELEMENTS // max(1, columns))) * columns
        return rows * columns + (columns * columns if self.extra == "gram" else 0)


@dataclass(frozen=True)
class _Sample:
    seconds: float
    num_bytes: float
    """Peak of memory beside the sources."""


def estimate(plan: MergePlan) -> Estimate:
    """What the merge will take, by timing the method on random numbers (some tenths of a second).

    Each thread is taken to work on one of the largest tensors at the same time.
    """
    tensors = [
        (item, _kind(plan, item))
        for item in plan.tensors
        if not item.copied and item.entry.dtype in MERGED
    ]
    first = {kind: item for item, kind in reversed(tensors)}
    samples = {kind: _sample(plan, item, kind) for kind, item in first.items()}
    num_bytes = plan.bytes_read + plan.bytes_written + _bytes_of_statistics(plan)
    seconds = num_bytes / _BYTES_PER_SECOND + len(plan.tensors) * _SECONDS_PER_TENSOR
    peaks = []
    for item, kind in tensors:
        sample, shape = samples[kind], item.entry.shape
        seconds += sample.seconds * kind.work(shape) / kind.work(kind.shape)
        times = kind.held(shape) / kind.held(kind.shape)
        peaks.append(_in_file(plan, item, kind) + sample.num_bytes * times)
    threads = num_threads()
    return Estimate(seconds, threads, _STARTED_MB + sum(heapq.nlargest(threads, peaks)) / 1e6)


def _kind(plan: MergePlan, item: TensorPlan) -> _Kind:
    method = plan.method
    wide = plan.recipe.dtype == "float64" or any(
        plan.models[model].spec(name).dtype == "F64" for model, name in item.places
    )
    statistics = [(plan.models[model].statistics, name) for model, name in item.experts]
    measured = all(one is not None and name in one.description.tensors for one, name in statistics)
    return _Kind(
        experts=len(item.experts),
        has_base=item.base is not None,
        whole=method.wants_whole(item.entry.name),
        dimensions=min(3, len(item.entry.shape)),
        wide=wide,
        extra=method.extra if measured else None,
    )


def _in_file(plan: MergePlan, item: TensorPlan, kind: _Kind) -> float:
    """Bytes that are read of one source at a time, before they become floats."""
    most = max(
        plan.models[model].spec(name).num_bytes / max(1, plan.models[model].spec(name).num_elements)
        for model, name in item.places
    )
    return most * kind.held(item.entry.shape)


def _bytes_of_statistics(plan: MergePlan) -> int:
    """Bytes of statistics files that are read; of Fisher twice, for their scale comes first."""
    total = 0
    for item in plan.tensors:
        for model, name in item.experts:
            statistics = plan.models[model].statistics if plan.method.extra else None
            if statistics is not None and name in statistics.description.tensors:
                stored = statistics.description.tensors[name].stored_as
                total += statistics.stored[stored].num_bytes
    return 2 * total if plan.method.extra == "fisher" else total


def _sample(plan: MergePlan, item: TensorPlan, kind: _Kind) -> _Sample:
    """The method on random numbers: the better of two times, and the memory of another run."""
    random = np.random.default_rng(0)

    def normal(shape: tuple[int, ...], scale: float) -> NDArray[np.floating]:
        return random.normal(scale=scale, size=shape).astype(np.float64 if kind.wide else "f4")

    def extra(shape: tuple[int, ...]) -> NDArray[np.floating]:
        if kind.extra == "fisher":
            return normal(shape, 1.0) ** 2
        inputs = normal((2 * shape[-1], shape[-1]), 1.0)
        return inputs.T @ inputs / len(inputs)

    def run(shape: tuple[int, ...]) -> tuple[float, int]:
        base = normal(shape, 0.02)
        experts = [base + normal(shape, 1e-3) for _ in item.experts]
        extras = [extra(shape) for _ in item.experts] if kind.extra else []
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        started = time.thread_time()
        merge_arrays(
            plan.method,
            base if kind.has_base else None,
            experts,
            item.values,
            extras=extras,
            name=item.entry.name,
        )
        return time.thread_time() - started, tracemalloc.get_traced_memory()[1] - before

    run((8,) * len(kind.shape))  # compiles
    seconds = min(run(kind.shape)[0] for _ in range(2))
    traced = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        _, peak = run(kind.shape)
    finally:
        if not traced:
            tracemalloc.stop()
    return _Sample(seconds, peak)
