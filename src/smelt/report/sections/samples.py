"""Sample answers, right and wrong, of each model on each benchmark."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from smelt.report.records import EvalRecord, Sample, read_lines
from smelt.report.stages import Stage, by_name

EACH = 2  # right ones and wrong ones shown of each model and benchmark
READ = 5000  # rows looked at to find them
LONGEST = 1200  # characters shown of one text


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} [{len(text) - LONGEST:,} more characters]"


def _kind(row: Sample) -> str:
    if row.correct is None or 0 < row.correct < 1:
        return "partly"
    return "right" if row.correct else "wrong"


def _length(row: Sample) -> str:
    """Tokens of an answer, where they are known, and whether it was cut off."""
    parts = [f"{row.tokens} token{'s' if row.tokens > 1 else ''}"] if row.tokens else []
    if not row.finished:
        parts.append("cut off by its budget")
    return ", ".join(parts)


def _pick(path: Path) -> dict[str, list[dict[str, str]]]:
    rows = read_lines(Sample, path, limit=READ)
    return {
        word: [
            {
                "prompt": _shown(row.prompt),
                "gold": _shown(row.gold),
                "answer": _shown(row.answer),
                "reason": _shown(row.reason) if row.reason else "",
                "length": _length(row),
            }
            for row in islice((row for row in rows if _kind(row) == word), EACH)
        ]
        for word in ("right", "partly", "wrong")
    }


def _models(stage: Stage, record: EvalRecord) -> list[dict[str, Any]]:
    found = []
    for model, benchmarks in record.scores.items():
        picked = []
        for benchmark in benchmarks:
            folder = stage.folder / "samples"
            path = folder / model / f"{benchmark}.jsonl"
            # Names come from a record: they must not lead out of the result folder.
            if path.resolve().is_relative_to(folder.resolve()):
                sample = _pick(path)
                if any(sample.values()):
                    picked.append((benchmark, sample))
        if picked:
            found.append({"model": model, "benchmarks": picked})
    return found


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """Samples of the first seed of each eval stage; None when none were kept."""
    cards = []
    for name, group in by_name(stages, EvalRecord).items():
        models = _models(*group[0])
        if models:
            cards.append({"name": name, "seed": group[0][0].seed, "models": models})
    return {"id": "samples", "title": "Sample answers", "cards": cards} if cards else None
