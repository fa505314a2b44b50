"""The child that runs the trusted tests and alone forms the verdict.

The names that the program must define are callers here: arguments and results cross as copies, so
what a program does to its arguments stays on its side.
"""

import builtins
import json
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any

from smelt.verify.sandbox.inside import wire


class ProgramError(Exception):
    """The program raised, or sent no value."""


class _NamedError(ProgramError):
    """An exception that tests may catch by the name of Python's own."""

    def __init__(self) -> None:
        Exception.__init__(self)


class Program:
    """The other end: calls go out, values come back."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.handles: dict[int, Handle] = {}
        self.failed = ""

    def ask(self, action: str, target: Any, arguments: Any = (), keywords: Any = None) -> Any:
        """One call. Raises the built-in exception that the program raised, as a ProgramError."""
        given = [wire.encode(value, _number) for value in arguments]
        named = {key: wire.encode(value, _number) for key, value in (keywords or {}).items()}
        self.channel.sendall(wire.frame(["call", [action, target, given, named]]))
        try:
            kind, value = json.loads(wire.receive(self.channel))
            if kind == "value":
                return wire.decode(value, self.handle)
        except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise self.failure("error") from error
        raise self.failure(value)

    def failure(self, name: Any) -> Exception:
        """What the tests see of a failed call."""
        name = name if isinstance(name, str) else "Exception"
        kind = getattr(builtins, name, None)
        self.failed = {"MemoryError": "memory", "output_limit": "output_limit"}.get(name, "error")
        if not isinstance(kind, type) or not issubclass(kind, Exception) or kind is Exception:
            return ProgramError(name)
        if issubclass(kind, BaseExceptionGroup):  # can not be made without exceptions in it
            return ProgramError(name)
        named: Exception = type(name, (_NamedError, kind), {})()
        return named

    def handle(self, number: Any) -> "Handle":
        """The one handle of an object of the program."""
        if type(number) is not int:
            raise ValueError("no handle")
        return self.handles.setdefault(number, Handle(self, number))

    def function(self, name: str) -> Callable[..., Any]:
        """A caller of one of the program's functions."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            return self.ask("function", name, arguments, keywords)

        call.__name__ = name
        return call


class Handle:
    """An object of the program. Equality and truth are those of the handle, never the program's."""

    def __init__(self, program: Program, number: int) -> None:
        object.__setattr__(self, "_handle", (program, number))

    def _ask(self, action: str, *arguments: Any) -> Any:
        program, number = self._handle
        return program.ask(action, number, arguments)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        program, number = self._handle
        return program.ask("call", number, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols are looked up here, not over there
            raise AttributeError(name)
        return self._ask("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("setitem", key, value)

    def __len__(self) -> int:
        return int(self._ask("len"))

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))

    def __iter__(self) -> Iterator[Any]:
        walker = self._ask("iter")
        if not isinstance(walker, Handle):
            raise TypeError("no iterator")
        return walker

    def __next__(self) -> Any:
        return self._ask("next")


def _number(value: Any) -> list[Any]:
    if isinstance(value, Handle):
        return ["handle", value._handle[1]]
    raise TypeError(f"tests pass literals and the program's own objects, not {type(value)}")


def run(channel: socket.socket, source: str, functions: list[str]) -> None:
    """Run the tests and say how they ended."""
    random.seed(0)
    program = Program(channel)
    names: dict[str, Any] = {"__name__": "tests"}
    names.update({name: program.function(name) for name in functions})
    verdict = ["verdict", "right"]
    try:
        exec(compile(source, "<tests>", "exec", dont_inherit=True), names)
    except ProgramError:
        verdict = ["verdict", program.failed]
    except MemoryError:
        verdict = ["verdict", "memory"]
    except Exception:  # an assertion, or a value of the wrong type in the middle of one
        verdict = ["verdict", "wrong_answer"]
    channel.sendall(wire.frame(verdict))
