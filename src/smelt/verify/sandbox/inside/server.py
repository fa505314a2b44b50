"""The fork server of a box: one child per job, its limits, its output, its end.

Bodies begin with a letter. From the harness: J(ob, JSON), D(ata for the child), S(top). To the
harness: I(dle), D(ata of the child), E(nded, with a reason). A child speaks first and then only
when it has been spoken to: what it writes out of turn waits, so that no two ends ever both write.
"""

import contextlib
import json
import math
import os
import resource
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from smelt.verify.sandbox.inside import isolate, judge, program, seccomp, wire

MEMORY = 1 << 30
TOGETHER = MEMORY * 3 // 2
"""Of all processes of a job."""
FILE_SIZE = 16 << 20
OUTPUT = 4 << 20
PROCESSES = 24
FILES = 64
TICK = 0.1
"""Seconds between two looks at what the kernel does not limit."""
_PAGE = resource.getpagesize()
_LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_")]


class Server:
    """State of a box: `alone` where it is the first process of a namespace or the only user of
    its uid, so that "all processes" are those of the job."""

    def __init__(self, control: socket.socket, alone: bool, packages: str) -> None:
        self.control, self.alone, self.packages = control, alone, packages
        self.standing = _standing()

    def send(self, kind: bytes, body: bytes = b"") -> None:
        """One message to the harness. Raises TooLongError."""
        self.control.sendall(wire.pack(kind + body))

    def run(self) -> None:
        """Serve until the harness hangs up, or a program has done something to this process: then
        the harness starts another box."""
        while _standing() == self.standing:
            self.send(b"I")
            body = wire.receive(self.control)
            if body[:1] == b"J":
                self.job(json.loads(body[1:]))

    def job(self, job: dict[str, Any]) -> None:
        """One job to its end and the cleaning after it."""
        mine, theirs = socket.socketpair()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            mine.close()
            os.close(reading)
            _child(job, theirs, writing, self.packages)
        theirs.close()
        os.close(writing)
        try:
            reason = Watch(self, child, mine, reading, clock(job["seconds"])).run()
        finally:
            mine.close()
            os.close(reading)
            status, cpu = self.sweep(child)
        if reason == "stop":
            return
        if reason == "gone":
            reason = _cause(status, cpu, job["seconds"])
        self.send(b"E", reason.encode())
        while wire.receive(self.control) != b"S":
            pass  # a message that was under way

    def sweep(self, child: int) -> tuple[int, float]:
        """Kill whatever the job has left, empty the box; the child's exit status and CPU time."""
        status, cpu = 0, 0.0
        while True:
            if self.alone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
            else:
                _kill_children()
            try:
                pid, code, usage = os.wait4(-1, 0)
            except ChildProcessError:
                break
            if pid == child:
                status, cpu = code, usage.ru_utime + usage.ru_stime
        _empty(Path.cwd())
        return status, cpu


class Watch:
    """A running child: relays, counts output, keeps the limits of time and memory."""

    def __init__(
        self, server: Server, child: int, channel: socket.socket, output: int, wall: float
    ) -> None:
        self.server, self.child, self.channel, self.output = server, child, channel, output
        self.end = time.monotonic() + wall
        self.look = time.monotonic() + TICK
        self.waiting = True
        self.incoming, self.outgoing, self.written = bytearray(), bytearray(), 0
        channel.setblocking(False)
        os.set_blocking(output, False)

    def run(self) -> str:
        """Until the harness says "stop", a limit is passed (its name) or the child is "gone"."""
        with selectors.DefaultSelector() as select:
            select.register(self.server.control, selectors.EVENT_READ)
            select.register(self.output, selectors.EVENT_READ)
            select.register(self.channel, selectors.EVENT_READ)
            while True:
                events = selectors.EVENT_READ if self.waiting else 0
                events |= selectors.EVENT_WRITE if self.outgoing else 0
                self._select(select, events)
                for key, mask in select.select(TICK):
                    reason = self._handle(select, key.fileobj, mask)
                    if reason:
                        return reason
                now = time.monotonic()
                if now > self.end:
                    return "timeout"
                if now > self.look:
                    self.look = now + TICK
                    if os.getpid() == 1 and (reason := _excess()):
                        return reason

    def _select(self, select: selectors.BaseSelector, events: int) -> None:
        known = self.channel in select.get_map()
        if events and known:
            select.modify(self.channel, events)
        elif events:
            select.register(self.channel, events)
        elif known:
            select.unregister(self.channel)

    def _handle(self, select: selectors.BaseSelector, source: Any, mask: int) -> str:
        if source is self.server.control:
            body = wire.receive(self.server.control)
            if body == b"S":
                return "stop"
            self.outgoing += wire.pack(body[1:])
            self.waiting = True
            return ""
        if source == self.output:
            return self._drain(select)
        try:
            return self._talk(mask)
        except wire.TooLongError:
            return "output_limit"
        except ConnectionError:
            return "gone"

    def _drain(self, select: selectors.BaseSelector) -> str:
        part = os.read(self.output, 1 << 16)
        if not part:  # the program has closed its output; how it ends shows elsewhere
            select.unregister(self.output)
        self.written += len(part)
        return "output_limit" if self.written > OUTPUT else ""

    def _talk(self, mask: int) -> str:
        if mask & selectors.EVENT_WRITE:
            with contextlib.suppress(BlockingIOError):
                del self.outgoing[: self.channel.send(self.outgoing)]
        if mask & selectors.EVENT_READ:
            with contextlib.suppress(BlockingIOError):
                part = self.channel.recv(1 << 20)
                if not part:
                    return "gone"
                self.incoming += part
            body = wire.take(self.incoming)
            if body is not None:
                self.waiting = False
                self.server.send(b"D", body)
        return ""


def _child(job: dict[str, Any], channel: socket.socket, output: int, packages: str) -> None:
    """Become the child of a job; never returns."""
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for wanted, given in ((0, nothing), (1, output), (2, output)):
            os.dup2(given, wanted)
        kept = os.dup2(channel.fileno(), 3, inheritable=False)
        os.closerange(4, 1 << 16)
        channel.detach()
        channel = socket.socket(fileno=kept)
        os.environ.clear()
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # else NumPy starts one for each core
        sys.argv = [""]
        sys.path.append(packages)
        seccomp.install()
        _limit(job["seconds"])
        role = program.run if job["role"] == "program" else judge.run
        role(channel, job["source"], job["functions"])
        channel.recv(1)  # what has failed waits for its end: the output is still drained
    finally:
        os._exit(0)


def _standing() -> list[Any]:
    """What another process of the same user can change about this one: limits, rank, cores."""
    limits = [resource.getrlimit(getattr(resource, name)) for name in _LIMITS]
    rank = [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)]
    return [limits, rank, os.sched_getaffinity(0)]


def clock(seconds: float) -> float:
    """Seconds that a job may take altogether."""
    return 4.0 * seconds + 1.0


def _whole(seconds: float) -> int:
    """CPU seconds as the kernel counts them."""
    return max(1, math.ceil(seconds))


def _limit(seconds: float) -> None:
    # First the signal that tells why; a second later the end, for a program that ignores it.
    whole = _whole(seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_NPROC, PROCESSES),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _cause(status: int, cpu: float, seconds: float) -> str:
    by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    late = by == signal.SIGKILL and cpu > 0.9 * _whole(seconds)
    return "timeout" if by == signal.SIGXCPU or late else "died"


def _excess() -> str:
    """The reason where all processes of the box together hold too much: memory, or files, whose
    number bwrap does not limit."""
    if _resident() > TOGETHER:
        return "memory"
    return "error" if _files() > isolate.FILES else ""


def _resident() -> int:
    """Bytes in memory of all processes of the box but this one."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        if folder.name != "1":
            with contextlib.suppress(OSError, ValueError, IndexError):
                total += int((folder / "statm").read_text().split()[1]) * _PAGE
    return total


def _files() -> int:
    """Files and folders in the box's `/tmp`, itself included."""
    found = os.statvfs(".")
    return found.f_files - found.f_ffree


def _kill_children() -> None:
    """Kill what hangs under this process, orphans included (it is their reaper)."""
    with contextlib.suppress(OSError):
        for pid in Path("/proc/thread-self/children").read_text().split():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(pid), signal.SIGKILL)


def _empty(folder: Path) -> None:
    """Remove what the job has left in its folder. Raises OSError where that is not possible."""
    if folder.stat().st_uid == os.geteuid():  # a job can have closed it
        folder.chmod(0o700)
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            _empty(Path(entry.path))
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
