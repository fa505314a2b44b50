"""The type checker that the import hook of jaxtyping puts on every function of smelt in tests."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

# PEP 484's tower: where a float is asked for, an int will do.
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def enforce(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, checking its arguments and its result."""
    wrapped: Callable[..., Any] = _checked(function)
    return wrapped
