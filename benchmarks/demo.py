"""What the demo costs: wall seconds, CPU seconds, and peak memory of the whole process tree.

    python benchmarks/demo.py [OUT] [smelt run options...]

Bars: about 12 minutes on two cores, 4 GB. Memory is the sum of the resident sets of all processes,
sampled twice a second; pages that processes share are counted once for each, so it is an upper
bound. The floor beside it: one process that has only imported torch and transformers.
"""

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

SMELT = Path(sys.executable).with_name("smelt")


def tree(root: int) -> list[int]:
    """Process ids of a process and all below it (Linux)."""
    found, todo = [], [root]
    while todo:
        process = todo.pop()
        found.append(process)
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                todo += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def resident_mb(process: int) -> float:
    """Resident set of a process in MB, 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak megabytes of a command."""
    begun, peak = time.perf_counter(), 0.0
    child = subprocess.Popen(command)
    ended = threading.Event()
    threading.Thread(target=lambda: (child.wait(), ended.set()), daemon=True).start()
    while not ended.wait(0.5):
        peak = max(peak, sum(resident_mb(process) for process in tree(child.pid)))
    if child.returncode:
        raise SystemExit(child.returncode)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begun, used.ru_utime + used.ru_stime, peak


def main() -> None:
    """Measure the floor, then the demo."""
    out, *options = sys.argv[1:] or ["out/tiny"]
    idle = (
        "import time, torch, transformers; from transformers import LlamaForCausalLM; time.sleep(2)"
    )
    _, _, floor = measure([sys.executable, "-c", idle])
    wall, cpu, peak = measure([str(SMELT), "run", "recipes/tiny.yaml", out, *options])
    print(f"demo: {wall / 60:.1f} min wall, {cpu / 60:.1f} min CPU, peak {peak:.0f} MB")
    print(f"floor: {floor:.0f} MB for one process that imports torch and transformers")
    print(f"ratio: {peak / floor:.1f}")


if __name__ == "__main__":
    main()
