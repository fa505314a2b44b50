"""CPU time of `smelt --help` beside the floor: the same interpreter that imports nothing.

    python benchmarks/startup.py

Prints the median of paired runs and their ratio. Bar: below 0.3 s.
"""

import resource
import statistics
import subprocess
import sys
from pathlib import Path

SMELT = Path(sys.executable).with_name("smelt")


def cpu_seconds(command: list[str]) -> float:
    """User plus system time of a child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(runs: int = 9) -> None:
    """Pairs of runs, so that what else the machine does falls on both."""
    pairs = [
        (cpu_seconds([str(SMELT), "--help"]), cpu_seconds([sys.executable, "-c", "pass"]))
        for _ in range(runs)
    ]
    ours, floor = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"smelt --help {ours:.3f} CPU s, python -c pass {floor:.3f} CPU s, ratio {ours / floor:.1f}"
    )


if __name__ == "__main__":
    main()
