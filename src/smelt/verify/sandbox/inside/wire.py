"""Values and messages between the boxes: plain literals, and handles for everything else.

A value crosses as JSON: None, booleans, numbers and strings as they are; everything else as a list
that begins with a tag. A subclass of a literal type crosses as the literal that it holds, read by
the methods of the literal type, so that a program's `__eq__` never reaches the tests.
"""

import builtins
import datetime
import json
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

LIMIT = 16 << 20
"""Longest message in bytes."""
_HEAD = struct.Struct(">I")
_SAFE = 1 << 1024
_DATES: dict[str, Any] = {
    "date": datetime.date, "datetime": datetime.datetime, "time": datetime.time
}  # fmt: skip


class TooLongError(Exception):
    """A message above LIMIT."""


def pack(body: bytes) -> bytes:
    """A body with its length before it. Raises TooLongError."""
    if len(body) > LIMIT:
        raise TooLongError
    return _HEAD.pack(len(body)) + body


def take(buffer: bytearray) -> bytes | None:
    """Cut the first whole body off the buffer; None: not there yet. Raises TooLongError."""
    if len(buffer) < _HEAD.size:
        return None
    (length,) = _HEAD.unpack_from(buffer)
    if length > LIMIT:
        raise TooLongError
    if len(buffer) < _HEAD.size + length:
        return None
    body = bytes(buffer[_HEAD.size : _HEAD.size + length])
    del buffer[: _HEAD.size + length]
    return body


def receive(channel: socket.socket) -> bytes:
    """The next body, blocking. Raises EOFError at the end of the channel, TooLongError."""
    (length,) = _HEAD.unpack(_exactly(channel, _HEAD.size))
    if length > LIMIT:
        raise TooLongError
    return _exactly(channel, length)


def _exactly(channel: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = channel.recv(min(count - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def frame(message: Any) -> bytes:
    """A message as a packed body of JSON. Raises TooLongError."""
    return pack(json.dumps(message).encode())


def encode(value: Any, handle: Callable[[Any], list[Any]]) -> Any:
    """A value as JSON; `handle` writes what is no literal."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -_SAFE < number < _SAFE else ["int", hex(number)]
    if isinstance(value, float):
        return float.__add__(value, 0.0) if value else ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", [float.hex(complex(value).real), float.hex(complex(value).imag)]]
    if isinstance(value, bytes | bytearray):
        kind = "bytes" if isinstance(value, bytes) else "bytearray"
        return [kind, memoryview(value).hex()]
    if isinstance(value, dict):
        pairs = [[encode(k, handle), encode(v, handle)] for k, v in dict.items(value)]
        return ["dict", pairs]
    kind_of: Any
    for kind_of in (list, tuple, set, frozenset, deque):
        if isinstance(value, kind_of):
            each = [encode(item, handle) for item in kind_of.__iter__(value)]
            return [kind_of.__name__, each]
    return _encode_other(value, handle)


def _encode_other(value: Any, handle: Callable[[Any], list[Any]]) -> Any:
    if type(value) is range:
        return ["range", [encode(n, handle) for n in (value.start, value.stop, value.step)]]
    if type(value) is Fraction:
        return ["Fraction", [encode(value.numerator, handle), encode(value.denominator, handle)]]
    if type(value) is Decimal:
        return ["Decimal", str(value)]
    if type(value) is datetime.timedelta:
        return ["timedelta", [value.days, value.seconds, value.microseconds]]
    if type(value) in _DATES.values() and getattr(value, "tzinfo", None) is None:
        return [type(value).__name__, value.isoformat()]
    if isinstance(value, type):
        name = type.__dict__["__name__"].__get__(value)
        return ["type", name] if getattr(builtins, name, None) is value else handle(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return encode(value.item(), handle)
    return handle(value)


def decode(value: Any, handle: Callable[[int], Any]) -> Any:
    """A value from JSON. Raises ValueError or TypeError for what no `encode` has written."""
    if value is None or isinstance(value, str | int | float):
        return value
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        raise ValueError("no value")
    kind, inner = value
    if kind == "handle":
        return handle(inner)
    return _decode_tagged(kind, inner, handle)


def _decode_tagged(kind: str, inner: Any, handle: Callable[[int], Any]) -> Any:
    match kind:
        case "int":
            return int(inner, 16)
        case "float":
            return float.fromhex(inner)
        case "complex":
            return complex(float.fromhex(inner[0]), float.fromhex(inner[1]))
        case "bytes":
            return bytes.fromhex(inner)
        case "bytearray":
            return bytearray.fromhex(inner)
        case "dict":
            return {decode(k, handle): decode(v, handle) for k, v in inner}
        case "list":
            return [decode(item, handle) for item in inner]
        case "tuple":
            return tuple([decode(item, handle) for item in inner])
        case "set":
            return {decode(item, handle) for item in inner}
        case "frozenset":
            return frozenset([decode(item, handle) for item in inner])
        case "deque":
            return deque([decode(item, handle) for item in inner])
        case "range":
            return range(*[decode(item, handle) for item in inner])
        case "Fraction":
            return Fraction(*[decode(item, handle) for item in inner])
        case "Decimal":
            return Decimal(inner)
        case "timedelta":
            return datetime.timedelta(*inner)
        case "type" if isinstance(named := getattr(builtins, inner, None), type):
            return named
        case _ if kind in _DATES:
            return _DATES[kind].fromisoformat(inner)
    raise ValueError(f"no kind {kind!r}")
