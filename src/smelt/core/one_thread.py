"""Numpy's linear algebra on one thread, so that its bits do not depend on how many there are.

A library that splits one product over threads adds in another order, hence gives other bytes, for
another number of them; and tensors are worked on side by side as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import Lock

from threadpoolctl import ThreadpoolController


class _Limit:
    """One thread while anyone is inside (it is one setting a process)."""

    def __init__(self) -> None:
        self.lock, self.inside, self.limiter = Lock(), 0, None

    @cached_property
    def libraries(self) -> ThreadpoolController:
        """Those of numpy, which are loaded by the first use; looking for them takes a while."""
        return ThreadpoolController()

    def enter(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.limiter = self.libraries.limit(limits=1, user_api="blas")

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and self.limiter is not None:
                self.limiter.restore_original_limits()


_LIMIT = _Limit()


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, products and factorisations of numpy arrays use one thread, in all threads."""
    _LIMIT.enter()
    try:
        yield
    finally:
        _LIMIT.leave()
