"""Expected time and memory of a merge, from a sample of the method's own work on this machine."""

import math
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from smelt.merge.apply import num_threads
from smelt.merge.blocks import BLOCK_ELEMENTS
from smelt.merge.method import merge_arrays
from smelt.merge.plan import MergePlan
from smelt.merge.sources import rows_and_columns
from smelt.merge.tensors import MERGED, TensorPlan

# Reading into memory and writing out of it, for data that the system has at hand.
_BYTES_PER_SECOND = 2.5e9
_SECONDS_PER_TENSOR = 3e-4
_STARTED_MB = 130.0
_COPIES = 3
"""Blocks that a method holds beside its sources, about."""
_SAMPLES = {True: (256, 256), False: (BLOCK_ELEMENTS // 1024, 1024)}
"""Shapes that are timed, for methods that get whole matrices and for others."""


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


def estimate(plan: MergePlan) -> Estimate:
    """What the merge will take, by timing the method on random numbers (some tenths of a second).

    A method that wants whole matrices is taken to grow as their decompositions do, with rows x
    columns x the smaller of both; others grow with the number of elements.
    """
    work: Counter[tuple[int, bool]] = Counter()
    largest = {True: 0, False: 0}
    sample: dict[tuple[int, bool], TensorPlan] = {}
    for item in plan.tensors:
        if item.copied or item.entry.dtype not in MERGED:
            continue
        whole = plan.method.wants_whole(item.entry.name) and len(item.entry.shape) > 1
        kind = (len(item.experts), whole)
        rows, columns = rows_and_columns(item.entry.shape)
        work[kind] += rows * columns * (min(rows, columns) if whole else 1)
        largest[whole] = max(largest[whole], rows * columns * (len(item.experts) + 1))
        sample.setdefault(kind, item)
    seconds = sum(
        _seconds(plan, item, _SAMPLES[kind[1]]) * work[kind] / _unit(kind[1])
        for kind, item in sample.items()
    )
    seconds += (plan.bytes_read + plan.bytes_written) / _BYTES_PER_SECOND
    seconds += len(plan.tensors) * _SECONDS_PER_TENSOR
    threads = num_threads()
    most = max((count for count, _ in work), default=1) + 1
    numbers = max(largest[True], min(largest[False], BLOCK_ELEMENTS * most))
    return Estimate(seconds, threads, _STARTED_MB + threads * _COPIES * numbers * 4 / 1e6)


def _unit(whole: bool) -> int:
    shape = _SAMPLES[whole]
    return math.prod(shape) * (min(shape) if whole else 1)


def _seconds(plan: MergePlan, item: TensorPlan, shape: tuple[int, int]) -> float:
    """Seconds of the method on one sample, the better of two after one to warm up."""
    random = np.random.default_rng(0)
    base = random.normal(scale=0.02, size=shape).astype(np.float32)
    experts = [
        base + random.normal(scale=1e-3, size=shape).astype(np.float32) for _ in item.experts
    ]
    taken = []
    for _ in range(3):
        started = time.thread_time()
        merge_arrays(plan.method, base if item.base else None, experts, item.values)
        taken.append(time.thread_time() - started)
    return min(taken[1:])
