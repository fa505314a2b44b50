"""Answers of one model to one group of questions, as a cell of the score table."""

import math
from collections import Counter
from typing import Any

from smelt.evals.exam import Exam, Sheet
from smelt.evals.harness import Mark
from smelt.evals.statistics import interval, pass_at
from smelt.verify import code

Cell = dict[str, Any]


def unreadable(reason: str) -> bool:
    """Does a reason mean that no answer could be read, as opposed to a wrong one?"""
    return reason.startswith("no_") or reason in ("unparsable", "empty", "too_long")


def scores_of(marks: list[Mark]) -> list[tuple[str, float]]:
    """(item, score) of every answer, in order."""
    return [(mark.item.id, mark.score) for mark in marks]


def cells_of(
    exam: Exam, sheet: Sheet, marks: list[Mark], *, pass_at: list[int], unsafe_code: bool
) -> dict[str, Cell]:
    """One cell for each group of an exam; see docs/eval.md for its keys."""
    shots = dict(zip((item.id for item in exam.items), sheet.shots, strict=True))
    found = {}
    for group in exam.groups:
        own = [mark for mark in marks if mark.item.group == group]
        cell = _cell(own, pass_at)
        cell["form"] = sheet.form_name
        cell["shots"] = max(shots[mark.item.id] for mark in own)
        fewer = sum(shots[m.item.id] < cell["shots"] and m.reason != "too_long" for m in own)
        if fewer:
            cell["fewer_shots"] = fewer
        if sheet.form.job is not None:
            cell["isolation"] = code.isolation(unsafe=unsafe_code)
        found[group] = cell
    return found


def _cell(marks: list[Mark], ks: list[int]) -> Cell:
    by_item: dict[str, list[float]] = {}
    for mark in marks:
        by_item.setdefault(mark.item.id, []).append(mark.score)
    means = [math.fsum(scores) / len(scores) for scores in by_item.values()]
    low, high = interval(means)
    total = math.fsum(means)
    cell: Cell = {
        "correct": int(total) if total.is_integer() else round(total, 4),
        "total": len(means),
        "accuracy": round(total / len(means), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "unparsed": sum(unreadable(mark.reason) for mark in marks),
        "reasons": dict(sorted(Counter(mark.reason for mark in marks).items())),
    }
    names = list(dict.fromkeys(name for mark in marks for name in mark.readings))
    if names:
        cell["rules"] = {
            name: round(math.fsum(m.readings.get(name, 0.0) for m in marks) / len(marks), 4)
            for name in names
        }
    if subjects := _subjects(marks):
        cell["subjects"] = subjects
    if any(mark.num_tokens for mark in marks):
        cell["length"] = round(math.fsum(mark.num_tokens for mark in marks) / len(marks), 1)
        cell["unfinished"] = sum(not mark.finished for mark in marks)
    if ks:
        counts = [(len(s), sum(score == 1.0 for score in s)) for s in by_item.values()]
        # Options are chosen by likelihood, once: there is nothing to draw k of.
        if drawn := [k for k in ks if k <= min(count for count, _ in counts)]:
            cell["pass_at"] = {
                str(k): round(math.fsum(pass_at(n, c, k) for n, c in counts) / len(counts), 4)
                for k in drawn
            }
    return cell


def _subjects(marks: list[Mark]) -> dict[str, list[float]]:
    """Subject -> [mean score, answers], where there is more than one subject."""
    by_subject: dict[str, list[float]] = {}
    for mark in marks:
        if mark.item.subject:
            by_subject.setdefault(mark.item.subject, []).append(mark.score)
    if len(by_subject) < 2:
        return {}
    return {
        name: [round(math.fsum(scores) / len(scores), 4), len(scores)]
        for name, scores in sorted(by_subject.items())
    }
