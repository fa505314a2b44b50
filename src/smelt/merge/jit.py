"""How kernels are compiled: without the interpreter lock, once per machine."""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def leave_out_scipy() -> None:
    """Load numba's arrays without scipy's BLAS, which no kernel here uses: 0.2 s.

    For a process that is one command: numba functions of anybody else in it have no `np.dot`.
    """
    if "scipy.linalg" in sys.modules:
        return
    sys.modules["scipy.linalg"] = cast(ModuleType, None)  # an import of it then fails at once
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        del sys.modules["scipy.linalg"]


def compiled(function: F) -> F:
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


def compiled_sum(function: F) -> F:
    # Leave to reassociate sums is what lets the compiler use vector registers for them.
    fastmath = {"reassoc", "contract"}
    made = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=fastmath)(function)
    return cast(F, made)
