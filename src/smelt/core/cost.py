"""What a stage cost: wall and CPU seconds and peak memory, added up over interrupted attempts."""

import json
import resource
import time
from pathlib import Path


def _reset_peak() -> None:
    # Linux only: several stages share one process, and each wants its own peak.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_mb() -> float:
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(row.split()[1]) for row in status.splitlines() if "VmHWM" in row) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Cost:
    """Meter of one attempt; `write` adds it to what earlier attempts left in the file.

    The attempt is in the file from its start, so that one that is killed counts as well.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = json.loads(path.read_text()) if path.is_file() else {}
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        _reset_peak()
        self.write()

    def write(self) -> None:
        """Save the total so far (wall and CPU seconds, peak megabytes, attempts)."""
        total = {
            "seconds": self.before.get("seconds", 0.0) + time.perf_counter() - self.wall,
            "cpu_seconds": self.before.get("cpu_seconds", 0.0) + time.process_time() - self.cpu,
            "peak_memory_mb": max(self.before.get("peak_memory_mb", 0.0), _peak_mb()),
            "attempts": self.before.get("attempts", 0) + 1,
        }
        rounded = {name: round(number, 2) for name, number in total.items()}
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(json.dumps(rounded) + "\n")
        partial.replace(self.path)
