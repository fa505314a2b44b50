"""Kernels where nothing can be written beside them or in the user's cache."""

import numpy as np
import pytest
from numba.core import caching

from smelt.merge.jit import compiled, compiled_sum


def test_kernels_are_compiled_without_a_place_for_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (caching.CacheImpl, caching.CompileResultCacheImpl):
        monkeypatch.setattr(kind, "_locator_classes", [])

    def double(values):  # type: ignore[no-untyped-def]
        for i in range(values.size):
            values[i] *= 2

    def total(values):  # type: ignore[no-untyped-def]
        found = 0.0
        for value in values:
            found += value
        return found

    values = np.arange(4.0)
    compiled(double)(values)
    np.testing.assert_array_equal(values, [0, 2, 4, 6])
    assert compiled_sum(total)(values) == 12
