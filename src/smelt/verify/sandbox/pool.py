"""Jobs through boxes: two for each worker, one for programs, one for the tests that judge."""

import json
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from smelt.core.errors import UserError
from smelt.core.progress import Bar
from smelt.verify.sandbox.box import Box, BoxError, first
from smelt.verify.sandbox.inside import wire
from smelt.verify.sandbox.isolation import isolation
from smelt.verify.sandbox.job import Job

Verdict = tuple[bool, str]
REASONS = (
    "right", "wrong_answer", "error", "syntax_error", "missing_function",
    "timeout", "memory", "output_limit", "died", "empty",
)  # fmt: skip
_GRACE = 15.0
_LONGEST = wire.LIMIT - (1 << 16)  # of a source as JSON


class Pair:
    """The two boxes of a worker, replaced when they fail."""

    def __init__(self, level: str) -> None:
        self.level = level
        self.boxes: dict[str, Box] = {}

    def box(self, role: str) -> Box:
        """The box of a role, started when there is none. Raises UserError where it can not be."""
        if role in self.boxes and self.boxes[role].process.poll() is not None:
            self.boxes.pop(role).close()
        if role not in self.boxes:
            try:
                self.boxes[role] = Box(self.level)
            except BoxError as error:
                raise UserError("sandbox", str(error), f"a box of level {self.level}") from error
        return self.boxes[role]

    def judge(self, job: Job) -> Verdict:
        """Run one job. Never raises on what a program does."""
        if not job.program.strip():
            return False, "empty"
        if max(len(json.dumps(text)) for text in (job.program, job.tests)) > _LONGEST:
            return False, "output_limit"
        try:
            reason = self._run(job)
        except BoxError:
            self.close()
            return False, "died"
        return reason == "right", reason

    def _run(self, job: Job) -> str:
        program, judge = self.box("program"), self.box("judge")
        limit = 4.0 * job.seconds + _GRACE
        program.start("program", job.program, job.functions, job.seconds)
        kind, body = program.receive(limit)
        if kind == b"E" or body != b'["ready"]':
            self._stop("program")
            return body.decode() if kind == b"E" else _failed(body)
        judge.start("judge", job.tests, job.functions, job.seconds)
        reason = _relay(program, judge, limit)
        self._stop("judge")
        self._stop("program")
        return reason

    def _stop(self, role: str) -> None:
        try:
            self.boxes[role].stop()
        except BoxError:  # the job's verdict stands; the next job gets another box
            self.boxes.pop(role).close()

    def kill(self) -> None:
        """End both from another thread: the job that runs is then judged "died"."""
        for box in list(self.boxes.values()):
            box.kill()

    def close(self) -> None:
        """End both."""
        for box in self.boxes.values():
            box.close()
        self.boxes.clear()


def _failed(body: bytes) -> str:
    """The reason that a program's box gives; the program may write anything there."""
    for reason in ("syntax_error", "missing_function", "memory"):
        if body == f'["failed", "{reason}"]'.encode():
            return reason
    return "error"


def _relay(program: Box, judge: Box, limit: float) -> str:
    """Carry calls and results until the tests have ended, or one of the boxes has."""
    while True:
        box = first([judge, program], limit)
        kind, body = box.receive(limit)
        if kind == b"E":
            return body.decode()
        if box is program:
            judge.send(b"D", body)
        elif body.startswith(b'["call"'):
            program.send(b"D", body)
        else:
            return str(json.loads(body)[1])


def run(
    jobs: list[Job], *, workers: int = 2, unsafe: bool = False, label: str = "programs"
) -> list[Verdict]:
    """The verdict on each job, in order: whether all its tests ran to their end, and the reason.

    unsafe: accept a machine without isolation. Raises UserError where there is none, before any
    program runs.
    """
    level = isolation(unsafe)
    if not jobs:
        return []
    pairs: queue.SimpleQueue[Pair] = queue.SimpleQueue()
    made = [Pair(level) for _ in range(min(max(1, workers), len(jobs)))]
    for pair in made:
        pairs.put(pair)
    stopped = threading.Event()
    verdicts: list[Verdict] = []

    def one(job: Job) -> Verdict:
        if stopped.is_set():
            raise InterruptedError
        pair = pairs.get()
        try:
            return pair.judge(job)
        finally:
            pairs.put(pair)

    with ThreadPoolExecutor(len(made)) as pool, Bar(label, len(jobs)) as bar:
        try:
            futures: list[Future[Verdict]] = [pool.submit(one, job) for job in jobs]
            for future in futures:
                verdicts.append(future.result())
                bar.move()
            return verdicts
        finally:
            stopped.set()
            if len(verdicts) < len(jobs):  # interrupted: what runs need not be waited for
                for pair in made:
                    pair.kill()
            pool.shutdown(cancel_futures=True)
            for pair in made:
                pair.close()
