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
    return _compiled(function, fastmath=False)


def compiled_sum(function: F) -> F:
    # Leave to reassociate sums is what lets the compiler use vector registers for them.
    fastmath = {"reassoc", "contract"}
    return _compiled(function, fastmath=fastmath)


def _compiled(function: F, fastmath: bool | set[str]) -> F:
    """Compiled when it is first called; kept on disk where that can be written."""

    def made(*, cache: bool) -> F:
        make = numba.njit(nogil=True, cache=cache, error_model="numpy", fastmath=fastmath)
        return cast(F, make(function))

    try:
        return made(cache=True)
    except RuntimeError:  # neither beside this file nor in the user's cache: compiled each time
        return made(cache=False)
