"""Counts of what each step saw, kept and dropped, with reasons and a few examples."""

from collections import Counter
from typing import Any

EXAMPLES = 3
EXAMPLE_CHARS = 80


class Step:
    """Counts of one step."""

    def __init__(self, name: str) -> None:
        self.name, self.seen, self.kept = name, 0, 0
        self.dropped: Counter[str] = Counter()


class Tally:
    """The named steps in their order, and examples of what was dropped."""

    def __init__(self, names: list[str]) -> None:
        self.steps = {name: Step(name) for name in names}
        self.examples: dict[str, list[str]] = {}

    def count(self, step: str, reason: str | None, text: str) -> bool:
        """Count one document in a step; without a reason it is kept. Returns whether it is."""
        counts = self.steps[step]
        counts.seen += 1
        if reason is None:
            counts.kept += 1
            return True
        counts.dropped[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(" ".join(text[: 2 * EXAMPLE_CHARS].split())[:EXAMPLE_CHARS])
        return False

    def notes(self) -> dict[str, Any]:
        """The facts for the run record."""
        steps = [
            {"step": step.name, "seen": step.seen, "kept": step.kept, "dropped": dict(step.dropped)}
            for step in self.steps.values()
        ]
        return {"steps": steps, "examples_dropped": self.examples}

    def reasons(self) -> str:
        """All reasons with their counts, most frequent first, for an error message."""
        total: Counter[str] = Counter()
        for step in self.steps.values():
            total.update(step.dropped)
        return ", ".join(f"{reason} {count}" for reason, count in total.most_common(5)) or "none"
