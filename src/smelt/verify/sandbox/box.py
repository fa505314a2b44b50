"""The harness's end of a box: a fork server behind a socket."""

import contextlib
import itertools
import json
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from smelt.verify.sandbox import isolation
from smelt.verify.sandbox.inside import wire

START_SECONDS = 60.0
_numbers = itertools.count()


class BoxError(Exception):
    """The box does not answer as it should: it is to be replaced."""


class Box:
    """A running box. Raises BoxError where it can not be started."""

    def __init__(self, level: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="smelt-box-", ignore_cleanup_errors=True)
        self.channel, theirs = socket.socketpair()
        self.buffer = bytearray()
        with theirs, tempfile.TemporaryFile() as errors:
            try:
                self.process = self._start(level, theirs, errors.fileno())
            except OSError as error:
                self.channel.close()
                self.folder.cleanup()
                raise BoxError(str(error)) from error
            theirs.close()
            try:
                self.expect(b"I", START_SECONDS)
            except BoxError as error:
                self.close()
                errors.seek(0)
                lines = errors.read()[-2000:].decode(errors="replace").strip().splitlines()
                raise BoxError(lines[-1] if lines else str(error)) from error

    def _start(self, level: str, theirs: socket.socket, errors: int) -> "subprocess.Popen[bytes]":
        # A plain process works, and leaves things, in a folder within: the outer one stays ours.
        work = Path(self.folder.name) / "work"
        work.mkdir()
        isolation.prepare(level, Path(self.folder.name))
        os.chmod(self.folder.name, 0o755)
        return subprocess.Popen(
            isolation.command(level, next(_numbers), self.folder.name),
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=work,
            env=isolation.ENVIRONMENT,
            start_new_session=True,
        )

    def send(self, kind: bytes, body: bytes = b"") -> None:
        """One message. Raises BoxError."""
        self.channel.settimeout(30.0)
        try:
            self.channel.sendall(wire.pack(kind + body))
        except OSError as error:
            raise BoxError("the box does not listen") from error

    def start(self, role: str, source: str, functions: tuple[str, ...], seconds: float) -> None:
        """Hand it a job."""
        job = {"role": role, "source": source, "functions": functions, "seconds": seconds}
        self.send(b"J", json.dumps(job).encode())

    def receive(self, seconds: float) -> tuple[bytes, bytes]:
        """The next message: its letter and what it carries. Raises BoxError."""
        end = time.monotonic() + seconds
        while (body := wire.take(self.buffer)) is None:
            self.channel.settimeout(max(0.001, end - time.monotonic()))
            try:
                part = self.channel.recv(1 << 20)
            except TimeoutError as error:
                raise BoxError("the box does not answer") from error
            except OSError as error:
                raise BoxError("the box has hung up") from error
            if not part:
                raise BoxError("the box has ended")
            self.buffer += part
        return body[:1], body[1:]

    def expect(self, kind: bytes, seconds: float) -> None:
        """Wait for a message of that kind, past all others. Raises BoxError."""
        end = time.monotonic() + seconds
        while self.receive(max(0.001, end - time.monotonic()))[0] != kind:
            pass

    def stop(self) -> None:
        """End the job and wait until the box is clean. Raises BoxError."""
        self.send(b"S")
        self.expect(b"I", 30.0)

    def kill(self) -> None:
        """End the box at once; `close` is still to be called."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the box and all within."""
        self.channel.close()
        try:
            self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()
        self.folder.cleanup()


def first(boxes: list[Box], seconds: float) -> Box:
    """The box that has something to say first. Raises BoxError when none has in that time."""
    for box in boxes:
        if box.buffer and len(box.buffer) >= 4:
            return box
    with selectors.DefaultSelector() as select:
        for box in boxes:
            select.register(box.channel, selectors.EVENT_READ, box)
        ready = select.select(seconds)
    if not ready:
        raise BoxError("no answer")
    found: Box = ready[0][0].data
    return found
