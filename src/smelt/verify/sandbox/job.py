"""What is run in the sandbox: a program nobody has read, and trusted tests that judge it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A generated program with its tests.

    program: source that is run in a box of its own; functions: names that it must define, through
    which alone the tests reach it; tests: trusted source, run in another box, in which each of the
    functions is a caller of the program's; seconds: CPU time of the program and of the tests each.
    """

    program: str
    functions: tuple[str, ...]
    tests: str
    seconds: float = 10.0
