"""What lm-eval found out, as rows of our score table and as kept answers."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from smelt.core.errors import UserError, nearest
from smelt.core.interval import mean_interval
from smelt.evals.statistics import interval

Cell = dict[str, Any]
Row = dict[str, Any]

# Resamples for figures that are no mean (perplexity, corpus BLEU).
RESAMPLES = 1000
# What lm-eval's regex filters give where nothing matched.
NOTHING_FOUND = "[invalid]"


def cells(
    name: str,
    loaded: dict[str, Any],
    results: dict[str, Any],
    model: Any,
    folder: Path,
    *,
    form: str,
    metric: str | None,
    where: str,
    seed: int,
) -> dict[str, Cell]:
    """Rows of a task, of all tasks of a group or tag, or of a group that has a score itself.

    model: the `Asked` that answered. Writes folder/ROW.jsonl for each row.
    """
    found = {}
    for row, members, group in _rows(name, loaded):
        leaves, lines = {}, []
        for task in members:
            leaf, own = _leaf(task, loaded["tasks"][task], results, model, metric, where, seed)
            leaves[task] = leaf
            lines += own
        cell = _joined(leaves, results["results"][group], seed) if group else leaves[members[0]]
        key = f"lm_eval:{row}".replace("/", ":")
        found[key] = {k: v for k, v in cell.items() if k != "scores"} | {"form": form}
        _write(folder / f"{key}.jsonl", lines)
    return found


def _rows(name: str, loaded: dict[str, Any]) -> list[tuple[str, list[str], str | None]]:
    """(row, its tasks, the group whose score it is) of a name."""
    groups = loaded.get("groups") or {}
    if name not in groups:
        return [(task, [task], None) for task in loaded["tasks"]]
    found: list[tuple[str, list[str], str | None]] = []
    left = [groups[name]]
    while left:
        group = left.pop(0)
        members = [task.task_name for task in group.get_all_tasks()]
        if not members:
            continue
        if group.has_aggregation:
            found.append((group.name, list(dict.fromkeys(members)), group.name))
            continue
        inner = group.get_all_groups(recursive=False)
        left += inner
        below = {task.task_name for one in inner for task in one.get_all_tasks()}
        found += [(task, [task], None) for task in members if task not in below]
    return found


def _metrics(figures: dict[str, Any], task: Any = None) -> dict[str, float]:
    """metric,filter -> value, in the order of the task's list of metrics."""
    found = {
        key: float(value)
        for key, value in figures.items()
        if "," in key and "_stderr," not in key and isinstance(value, int | float | np.number)
    }
    listed = task.config.metric_list if task is not None else None
    order = [str(one["metric"]) for one in listed or []]
    last = len(order)

    def place(key: str) -> int:
        name = key.partition(",")[0]
        return order.index(name) if name in order else last

    return {key: found[key] for key in sorted(found, key=place)}


def _main(metrics: dict[str, float], wanted: str | None, where: str) -> str:
    """The metric that is the score: the first, or the one that was asked for."""
    if not metrics:
        raise UserError(where, "a task without a metric", "a task with a metric")
    if wanted is None:
        return next(iter(metrics))
    for key in metrics:
        if wanted in (key, key.partition(",")[0]):
            return key
    raise UserError(f"{where}: options.metric", f"found '{wanted}'", nearest(wanted, list(metrics)))


def _leaf(
    name: str, task: Any, results: dict[str, Any], model: Any, wanted: str | None, where: str,
    seed: int,
) -> tuple[Cell, list[Row]]:  # fmt: skip
    """The cell of one task, with its items' scores, and the rows of its answers."""
    metrics = _metrics(results["results"][name], task)
    main = _main(metrics, wanted, f"{where}: {name}")
    metric, _, reading = main.partition(",")
    samples = [row for row in results["samples"][name] if row["filter"] == reading]
    values = [row[metric] for row in samples if metric in row]
    scores = [float(value) for value in values if isinstance(value, int | float | np.number)]
    plain = len(scores) == len(values) and math.isclose(
        math.fsum(scores) / len(scores), metrics[main], abs_tol=1e-9
    )
    if plain and all(0 <= score <= 1 for score in scores):
        low, high = interval(scores, seed)
    else:
        low, high = _resampled(task.aggregation()[metric], values, seed)
    lines = [_row(name, task, row, metric, model) for row in samples]
    written = [one for line in lines for one in model.written.get((name, line["doc"]), [])]
    total = len(values)
    cell: Cell = {
        "accuracy": round(metrics[main], 4),
        "correct": _count(math.fsum(scores) if plain else metrics[main] * total),
        "total": total,
        "low": round(low, 4),
        "high": round(high, 4),
        "unparsed": sum(line["reason"] in ("unparsable", "empty") for line in lines),
        "reasons": dict(sorted(Counter(line["reason"] for line in lines).items())),
        "shots": task.config.num_fewshot or 0,
        "metric": main,
        "scores": scores if plain else None,
    }
    if rules := {key: round(value, 4) for key, value in metrics.items() if key != main}:
        cell["rules"] = rules
    if written:
        cell["length"] = round(sum(one.num_tokens for one in written) / len(written), 2)
        cell["unfinished"] = sum(not one.finished for one in written)
    if truncated := sum((name, line["doc"]) in model.cut for line in lines):
        cell["truncated"] = truncated
    if task.higher_is_better().get(metric) is False:
        cell["lower_is_better"] = True
    for line in lines:
        line.pop("doc")
    return cell, lines


def _count(value: float) -> float | int:
    """A sum of scores, whole where it is."""
    return int(value) if value.is_integer() else round(value, 4)


def _resampled(
    aggregate: Callable[[list[Any]], Any], values: list[Any], seed: int
) -> tuple[float, float]:
    """95 % percentile bootstrap of any figure of a task's items."""
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(values), (RESAMPLES, len(values)))
    figures = [float(aggregate([values[place] for place in pick])) for pick in picks]
    low, high = np.quantile(figures, [0.025, 0.975])
    return float(low), float(high)


def _row(name: str, task: Any, sample: Row, metric: str, model: Any) -> Row:
    """A kept answer: what was asked, what came, and what it scored."""
    value = sample.get(metric)
    score = float(value) if isinstance(value, int | float | np.number) else None
    answer, finished, tokens = "", True, 0
    if written := model.written.get((name, sample["doc_id"])):
        answer, finished = written[0].text, all(one.finished for one in written)
        tokens = sum(one.num_tokens for one in written)
    elif len(sample["resps"]) > 1:  # a choice by likelihood
        best = max(range(len(sample["resps"])), key=lambda place: sample["resps"][place][0][0])
        answer = str(sample["arguments"][best][-1])
    reason = "right" if score == 1 else "wrong_answer" if score == 0 else "partly"
    if score is None:
        reason = "measured"
    elif score < 1 and written and not answer.strip():
        reason = "empty"
    elif score < 1 and sample["filtered_resps"][:1] in ([NOTHING_FOUND], [[NOTHING_FOUND]]):
        reason = "unparsable"
    row: Row = {
        "id": f"{name}/{sample['doc_id']}", "doc": sample["doc_id"],
        "prompt": sample["arguments"][0][0], "gold": _gold(task, sample), "answer": answer,
        "correct": bool(score) if score in (0.0, 1.0) else score, "reason": reason,
        "tokens": tokens, "finished": finished, "subject": name,
    }  # fmt: skip
    if written and len(written) > 1:
        row["answers"] = [one.text for one in written]
    return row


def _gold(task: Any, sample: Row) -> str:
    """The right answer as text: an option where the task names it by its place."""
    target = sample["target"]
    if isinstance(target, int) and task.OUTPUT_TYPE == "multiple_choice":
        if task.multiple_input:
            return str(target)
        options = task.doc_to_choice(sample["doc"])
        return str(options[target]) if 0 <= target < len(options) else str(target)
    return target if isinstance(target, str) else json.dumps(target, ensure_ascii=False)


def _joined(leaves: dict[str, Cell], figures: dict[str, Any], seed: int) -> Cell:
    """The cell of a group, whose score lm-eval made of its tasks' scores."""
    first = next(iter(leaves.values()))
    metrics = _metrics(figures)
    main = first["metric"] if first["metric"] in metrics else next(iter(metrics))
    total = sum(leaf["total"] for leaf in leaves.values())
    scores = [score for leaf in leaves.values() for score in leaf["scores"] or []]
    pooled = len(scores) == total and all(0 <= score <= 1 for score in scores)
    if pooled and math.isclose(math.fsum(scores) / total, metrics[main], abs_tol=1e-9):
        low, high = interval(scores, seed)
    else:
        members = [(leaf["accuracy"], leaf["low"], leaf["high"]) for leaf in leaves.values()]
        low, high = mean_interval(members)
    reasons: Counter[str] = Counter()
    for leaf in leaves.values():
        reasons.update(leaf["reasons"])
    cell: Cell = {
        "accuracy": round(metrics[main], 4),
        "correct": _count(math.fsum(scores) if pooled else metrics[main] * total),
        "total": total,
        "low": round(low, 4),
        "high": round(high, 4),
        "unparsed": sum(leaf["unparsed"] for leaf in leaves.values()),
        "reasons": dict(sorted(reasons.items())),
        "subjects": {name: [leaf["accuracy"], leaf["total"]] for name, leaf in leaves.items()},
        "shots": max(leaf["shots"] for leaf in leaves.values()),
        "metric": main,
    }
    if rules := {key: round(value, 4) for key, value in metrics.items() if key != main}:
        cell["rules"] = rules
    if "length" in first:
        tokens = sum(leaf.get("length", 0.0) * leaf["total"] for leaf in leaves.values())
        cell["length"] = round(tokens / total, 2)
    for key in ("unfinished", "truncated"):
        if any(key in leaf for leaf in leaves.values()):
            cell[key] = sum(leaf.get(key, 0) for leaf in leaves.values())
    if any("lower_is_better" in leaf for leaf in leaves.values()):
        cell["lower_is_better"] = True
    return cell


def _write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
