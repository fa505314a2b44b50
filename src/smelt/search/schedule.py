"""Which measurement runs when: generations in flight, the pool kept busy, answers written down."""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from smelt.search.candidate import Candidate
from smelt.search.measured import Answer, Log
from smelt.search.race import Generation
from smelt.search.workers import Pool


@dataclass(eq=False)
class _Open:
    """A generation in flight: what it still lacks, whether it waits until it is the oldest, and,
    when it is through, what each candidate counts as."""

    candidates: list[Candidate]
    steps: Generation
    missing: int = 0
    waits: bool = False
    values: list[list[float]] | None = None


class Schedule:
    """Runs generations side by side, the oldest with priority.

    expand: from a genome to what workers measure; measured: called with each candidate that has
    new values. What the log holds is not measured again.
    """

    def __init__(
        self,
        pool: Pool,
        log: Log,
        expand: Callable[[list[float]], list[float]],
        measured: Callable[[Candidate], None],
    ) -> None:
        self._pool, self._log, self._expand, self._measured = pool, log, expand, measured
        self._live: deque[_Open] = deque()
        self._queue: list[tuple[int, list[int], Candidate, _Open]] = []
        self._running: dict[int, tuple[list[int], Candidate, _Open]] = {}

    def __len__(self) -> int:
        """Generations in flight."""
        return len(self._live)

    def begin(self, candidates: list[Candidate], steps: Generation) -> None:
        """Put one more generation in flight. It gets no further here than where it waits for its
        turn, even if all is in the log: what it gives must not reach one that is asked before."""
        self._live.append(_Open(candidates, steps))
        self._advance(self._live[-1], turn=False)

    def oldest(self) -> tuple[list[Candidate], list[list[float]]]:
        """Work until the oldest generation is through; its candidates, what they are told with."""
        first = self._live[0]
        while True:
            for one in self._live:
                self._advance(one, turn=one is first)
            if first.values is not None:
                self._live.popleft()
                return first.candidates, first.values
            while self._queue and len(self._running) < self._pool.workers:
                number, items, candidate, one = heapq.heappop(self._queue)
                self._running[number] = items, candidate, one
                self._pool.submit(number, self._expand(candidate.genome), items)
            number, answer = self._pool.finished()
            items, candidate, one = self._running.pop(number)
            self._log.keep(number, candidate.genome, items, answer)
            self._take(one, candidate, items, answer)

    def _advance(self, one: _Open, *, turn: bool) -> None:
        while one.values is None and not one.missing and (turn or not one.waits):
            try:
                batch = next(one.steps)
            except StopIteration as stop:
                one.values = stop.value
                return
            one.waits = not batch
            one.missing = len(batch)
            for candidate, items in batch:
                answer = self._log.find(candidate.number, candidate.genome, items)
                if answer is None:
                    heapq.heappush(self._queue, (candidate.number, items, candidate, one))
                else:
                    self._take(one, candidate, items, answer)

    def _take(self, one: _Open, candidate: Candidate, items: list[int], answer: Answer) -> None:
        candidate.take(items, answer)
        one.missing -= 1
        self._measured(candidate)
