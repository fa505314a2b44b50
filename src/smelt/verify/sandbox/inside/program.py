"""The child that runs a program and answers calls of its functions. Nothing here is trusted."""

import builtins
import gc
import json
import random
import socket
import sys
from typing import Any

from smelt.verify.sandbox.inside import wire


class _Objects:
    """What has crossed as a handle, by number."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.numbers: dict[int, int] = {}

    def give(self, value: Any) -> list[Any]:
        number = self.numbers.setdefault(id(value), len(self.kept))
        if number == len(self.kept):
            self.kept.append(value)
        return ["handle", number]

    def take(self, number: int) -> Any:
        return self.kept[number]


def run(channel: socket.socket, source: str, functions: list[str]) -> None:
    """Run the program, then answer until the box is told to stop."""
    random.seed(0)
    gc.enable()
    module = type(sys)("program")  # not __main__: what is for a user at a terminal stays off
    sys.modules["program"] = module
    names: dict[str, Any] = module.__dict__
    try:
        code = compile(source, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        channel.sendall(wire.frame(["failed", "syntax_error"]))
        return
    try:
        exec(code, names)
    except MemoryError:
        channel.sendall(wire.frame(["failed", "memory"]))
        return
    except BaseException:  # whatever a program raises, SystemExit too, is its failure
        channel.sendall(wire.frame(["failed", "error"]))
        return
    missing = [name for name in functions if name not in names]
    if missing:
        channel.sendall(wire.frame(["failed", "missing_function"]))
        return
    channel.sendall(wire.frame(["ready"]))
    objects = _Objects()
    while True:
        channel.sendall(_answer(wire.receive(channel), names, objects))


def _answer(body: bytes, names: dict[str, Any], objects: _Objects) -> bytes:
    try:
        value = _do(json.loads(body)[1], names, objects)
        return wire.frame(["value", wire.encode(value, objects.give)])
    except wire.TooLongError:
        name = "output_limit"
    except MemoryError:
        name = "MemoryError"
    except BaseException as error:  # the name of whatever it raises goes to the tests
        name = _builtin_name(type(error))
    return wire.frame(["raised", name])  # what fills the memory hangs on the error: now it is gone


def _builtin_name(kind: type) -> str:
    """The nearest exception of Python's own: classes of the program do not cross."""
    for known in type.mro(kind):
        if getattr(builtins, known.__name__, None) is known:
            return str(known.__name__)
    return "Exception"


def _do(message: Any, names: dict[str, Any], objects: _Objects) -> Any:
    action, target, arguments, keywords = message
    given = [wire.decode(value, objects.take) for value in arguments]
    named = {key: wire.decode(value, objects.take) for key, value in keywords.items()}
    if action == "function":
        return names[target](*given, **named)
    held = objects.take(target)
    match action:
        case "call":
            return held(*given, **named)
        case "getattr":
            return getattr(held, *given)
        case "setattr":
            return setattr(held, *given)
        case "getitem":
            return held[given[0]]
        case "setitem":
            held[given[0]] = given[1]
            return None
        case "len":
            return len(held)
        case "str":
            return str(held)
        case "repr":
            return repr(held)
        case "iter":
            return iter(held)
        case "next":
            return next(held)
    raise ValueError(action)
