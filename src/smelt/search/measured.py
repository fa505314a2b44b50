"""What a search has measured, on disk: nothing finished is lost, whatever ends the process.

measured.jsonl takes every measurement as it comes in, in any order; journal.jsonl has one row a
candidate, in order, and follows from the measurements. A killed search reads the first, replays
all that stands there and writes the second anew, so both end with the same bytes as without a kill.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from smelt.core.errors import UserError
from smelt.core.run import write_atomic

JOURNAL, MEASURED = "journal.jsonl", "measured.jsonl"

Answer = list[list[float]] | str
"""[objective][item] of a measurement, or why there is none."""


class Log:
    """Journal and measurements of a search, all its stages in one. A context manager.

    candidates: rows so far, hence the number of the next candidate; best: the largest fitness so
    far on all items, over all stages.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MEASURED
        self._journal_path = folder / JOURNAL
        self._known: dict[tuple[int, tuple[int, ...]], tuple[list[float], Answer]] = {}
        self.candidates = 0
        self.best: float | None = None

    def __enter__(self) -> "Log":
        if self.path.is_file():
            self._read()
        self._stream = self.path.open("a", encoding="utf-8")
        self._journal = self._journal_path.open("w", encoding="utf-8")
        return self

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # a row cut off by a kill
            with self.path.open("r+b") as stream:
                stream.truncate(len(whole))
        for number, line in enumerate(whole.splitlines()):
            try:
                row = json.loads(line)
                key = row["candidate"], tuple(row["items"])
                self._known[key] = row["genome"], row["error"] or row["values"]
            except (ValueError, KeyError, TypeError) as error:
                found = f"row {number} is no measurement"
                raise UserError(self.path, found, "its own file", "remove it") from error

    def find(self, candidate: int, genome: list[float], items: list[int]) -> Answer | None:
        """What was measured before the kill. Raises UserError for a file of another search."""
        known = self._known.get((candidate, tuple(items)))
        if known is None:
            return None
        if known[0] != genome:
            found = f"candidate {candidate} is of another search"
            raise UserError(self.path, found, "its own file", "remove it")
        return known[1]

    def keep(self, candidate: int, genome: list[float], items: list[int], answer: Answer) -> None:
        """Write a measurement down at once."""
        row: dict[str, Any] = {"candidate": candidate, "genome": genome, "items": items}
        failed = isinstance(answer, str)
        row |= {"values": None if failed else answer, "error": answer if failed else None}
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()

    def write(self, row: dict[str, Any]) -> None:
        """The journal's row of the next candidate."""
        self._journal.write(json.dumps(row) + "\n")
        self._journal.flush()
        self.candidates += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._journal.close()
        if error is None:
            # Measurements of one candidate follow one another; those of several come as they do.
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            lines.sort(key=lambda line: int(json.loads(line)["candidate"]))
            write_atomic(self.path, "".join(lines))
