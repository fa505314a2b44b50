"""Made-up eval and search results with everything that new records say, written by core.run."""

import json
import random
from pathlib import Path
from typing import Any

from smelt.core.interval import wilson
from smelt.core.run import Run
from tests.report.fake import lines

ROLES = {"coder": "expert", "thinker": "expert", "merged": "merge", "joined": "fused"}
ALONE = {"coder": (30, 80), "thinker": (75, 35), "merged": (70, 72), "joined": (60, 50)}
TOGETHER = {"coder": 28, "thinker": 30, "merged": 55, "joined": 31}
SKILLS = ["logic", "trace"]


def _score(correct: float, total: int = 100, **facts: Any) -> dict[str, Any]:
    low, high = wilson(correct, total)
    return {
        "accuracy": round(correct / total, 4), "correct": correct, "total": total,
        "low": round(low, 4), "high": round(high, 4), "unparsed": 0,
        "reasons": {"right": int(correct), "wrong_answer": total - int(correct)}, **facts,
    }  # fmt: skip


def scores() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for model, (logic, trace) in ALONE.items():
        chat = model != "coder"
        asked: dict[str, Any] = {"form": "chat" if chat else "base", "shots": 0 if chat else 4}
        found[model] = {
            "logic": _score(
                logic, **asked, length=41.25, unfinished=3,
                subjects={"logic": [0.5, 50], "logic, with a number": [0.25, 50]},
            ),
            "trace": _score(trace, **asked, length=20.0, unfinished=0),
            "logic+trace": _score(TOGETHER[model], **asked, length=90.0, unfinished=7),
            "drop": {  # partial credit, its interval a bootstrap
                "accuracy": 0.5, "correct": 20.0, "total": 40, "low": 0.41, "high": 0.58,
                "unparsed": 2, "reasons": {"right": 9, "partly": 20, "empty": 2, "wrong_answer": 9},
                "rules": {"exact_match": 0.225}, **asked, "length": 12.0, "unfinished": 0,
            },
            "humaneval": _score(
                10, 20, **asked, isolation="bubblewrap", pass_at={"1": 0.5, "10": 0.8125},
            ),
            "lm_eval:wikitext": {
                "accuracy": 14.5 + logic, "correct": 900.0, "total": 62, "low": 13.0 + logic,
                "high": 16.0 + logic, "unparsed": 0, "metric": "word_perplexity,none", "shots": 0,
                "lower_is_better": True, "form": "base",
            },
        }  # fmt: skip
    return found


def gain(model: str, pair: str, value: float, low: float, high: float) -> dict[str, Any]:
    return {
        "model": model, "pair": pair, "skills": pair.split("+"), "best_expert": "thinker",
        "gain": value, "low": low, "high": high, "over": {"thinker": value, "coder": value + 0.02},
        "accuracy": 0.3 + value, "expert_accuracy": 0.3, "items": 100, "independent": 0.504,
        "twins": dict(zip(pair.split("+"), (0.7, 0.72), strict=True)),
    }  # fmt: skip


GAINS = [
    gain("merged", "logic+trace", 0.25, 0.12, 0.37),
    gain("merged", "lists+trace", 0.04, -0.05, 0.13),
    gain("merged", "lists+logic", -0.08, -0.15, -0.01),
    gain("joined", "logic+trace", 0.01, -0.09, 0.11),
]
COMPARISONS = [
    {"models": ["thinker", "merged"], "benchmark": "logic+trace", "difference": 0.25, "low": 0.13,
     "high": 0.36, "p": 0.00021, "only_first": 9, "only_second": 34, "items": 100},
    {"models": ["thinker", "joined"], "benchmark": "logic+trace", "difference": 0.01, "low": -0.09,
     "high": 0.11, "p": 1.0, "only_first": 12, "only_second": 13, "items": 100},
    {"models": ["thinker", "joined"], "benchmark": "logic", "difference": -0.15, "low": -0.28,
     "high": -0.02, "p": 0.031, "only_first": 30, "only_second": 15, "items": 100},
]  # fmt: skip


def evaluation(folder: Path, seed: int = 0, *, items: int | None = None, **changed: Any) -> Path:
    """A result of `smelt eval` in today's format. Returns its folder.

    items: which data was asked, for each seed other data unless told.
    """
    data = folder.parent / "data.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(f"{seed if items is None else items}\n")
    notes: dict[str, Any] = {
        "scores": scores(), "roles": ROLES, "groups": {"alone": SKILLS},
        "majority": {"logic": 0.04, "trace": 0.05, "logic+trace": 0.06},
        "combined": GAINS, "comparisons": COMPARISONS,
    }  # fmt: skip
    samples = [
        {"id": "a", "prompt": "?", "gold": "7", "answer": "It is 7.", "correct": True,
         "reason": "right", "tokens": 4, "finished": True},
        {"id": "b", "prompt": "??", "gold": "x y", "answer": "x", "correct": 0.67,
         "reason": "partly", "tokens": 1, "finished": True},
        {"id": "c", "prompt": "???", "gold": "7", "answer": "Let us think", "correct": False,
         "reason": "no_number", "tokens": 256, "finished": False},
        {"id": "d", "prompt": "how likely", "gold": "", "answer": "", "correct": None,
         "reason": "measured", "tokens": 0, "finished": True},
    ]  # fmt: skip
    run = Run(folder, "eval", {"seed": seed}, {"benchmarks.0": str(data)}, seed=seed)
    with run:
        lines(run.folder / "samples" / "merged" / "drop.jsonl", samples)
        run.note(**notes | changed)
    return folder


def journal(
    candidates: int = 60, *, objectives: int = 1, racing: bool = True, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows of a search: rising fitness, two stages, a failure, half of them dropped early."""
    source = random.Random(seed)
    rows: list[dict[str, Any]] = []
    best: float | None = None
    for number in range(candidates):
        whole = not racing or number % 2 == 0
        value: float | None = 0.4 + 0.3 * (1 - 0.95**number) + source.gauss(0, 0.02)
        if not whole:
            value = (value or 0) + 0.2  # an estimate on few items: it must not count as best
        error = "not finite" if number == 5 else None
        value = None if error else value
        if value is not None and whole:
            best = value if best is None else max(best, value)
        row = {"stage": int(number >= 40), "candidate": number, "generation": number // 10,
               "genome": [0.1], "fitness": value}  # fmt: skip
        if objectives > 1:
            rest = [-100.0 * source.random() for _ in range(objectives - 1)]
            row["objectives"] = None if value is None else [value, *rest]
        row |= {"items": 200 if whole else 50, "best": best, "error": error}
        rows.append(row)
    return rows


HONESTY = {
    "measure": "exact", "optimism": 0.073, "error": 0.021,
    "warning": "Of the 18.0 points gained on the fitness split, 7.3 are not there on the test.",
    "rows": [
        {"name": "math", "start_fitness": 0.5, "best_fitness": 0.7, "start_test": 0.5,
         "best_test": 0.61},
        {"name": "code", "start_fitness": 0.25, "best_fitness": 0.41, "start_test": 0.24,
         "best_test": None},
    ],
}  # fmt: skip


def coefficients(layers: int, parts: tuple[str, ...] = ("attention", "mlp")) -> dict[str, Any]:
    source = random.Random(1)
    rows = ["weight of math", "weight of code", "density of math", "density of code"]
    columns = [f"layer {n} {part}" for n in range(layers) for part in parts] + ["other"]
    values = [[round(source.uniform(-0.5, 1.2), 4) for _ in columns] for _ in rows]
    return {"rows": rows, "columns": columns, "values": values}


def searched(
    folder: Path, *, rows: list[dict[str, Any]], seed: int = 0, objectives: list[str] | None = None,
    layers: int = 24, **notes: Any,
) -> Path:  # fmt: skip
    """A result of `smelt search` in today's format. Returns its folder."""
    known = [row["fitness"] for row in rows if row["fitness"] is not None]
    fitness = {"start": rows[0]["fitness"], "best": rows[-1]["best"], "split": "fitness.jsonl",
               "evaluations": len(rows), "items": sum(row["items"] for row in rows)}  # fmt: skip
    assert known
    run = Run(folder, "search", {"search": {}}, {}, seed=seed)
    with run:
        lines(run.folder / "journal.jsonl", rows)
        run.note(method="ties", fitness=fitness, coefficients=coefficients(layers))
        run.note(**notes)
        if objectives:
            run.note(objectives=objectives)
    return folder


def running(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The folder in which a search works: a journal whose last row is being written, no record."""
    work = folder.with_name(folder.name + ".partial")
    lines(work / "journal.jsonl", rows)
    with (work / "journal.jsonl").open("a") as stream:
        stream.write(json.dumps(rows[0])[:25])
    (work / "key").write_text("a" * 64)
    (work / ".lock").write_text("")
    return work
