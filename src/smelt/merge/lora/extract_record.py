"""What an extraction tells: the share of the change that the adapter holds, where the rest is."""

from collections.abc import Iterable
from typing import Any

import yaml

from smelt.merge.lora.adapter_folder import Extracted, size_of, task_vector
from smelt.merge.lora.extract import Contents, Extraction

Row = dict[str, Any]


def facts(job: Extraction, found: Contents, done: dict[str, Extracted]) -> Row:
    """Notes for the run record.

    energy: the share of the squared distance between model and base that the adapter holds, over
    all tensors; tensors: the same per tensor, its rank, and `change`, the Frobenius norm of the
    difference over that of the base.
    """
    kept = sum(one.energy * one.squares for one in done.values())
    total = sum(one.squares for one in done.values())
    exact = {name for names in found.whole.values() for name in names if name in job.names}
    for name in [*exact, *found.biases, *found.left_out]:
        squares = float((task_vector(job, name).astype("float64") ** 2).sum())
        total += squares
        kept += 0.0 if name in found.left_out else squares
    return {
        "energy": _short(kept / total),
        "tensors": {
            name: {"rank": one.rank, "energy": _short(one.energy), "change": _short(one.change)}
            for name, one in done.items()
        },
        "layers": layers(done),
        "saved_whole": sorted(found.whole),
        "biases": len(found.biases),
        "unchanged": found.unchanged,
        "left_out": {
            name: {"reason": reason, "change": _short(_change(job, name))}
            for name, reason in found.left_out.items()
        },
    }


def _change(job: Extraction, name: str) -> float:
    base = size_of(job.base, name)
    return float((task_vector(job, name).astype("float64") ** 2).sum() ** 0.5) / base if base else 0


def _short(value: float) -> float:
    """Six digits: more would be rounding noise of the processor."""
    return float(f"{value:.6g}")


def layers(done: dict[str, Extracted]) -> dict[str, Row]:
    """By the kind of layer (q_proj, up_proj...): tensors, ranks from and to, energy."""
    groups: dict[str, list[Extracted]] = {}
    for name, one in done.items():
        groups.setdefault(name.split(".")[-2], []).append(one)
    result: dict[str, Row] = {}
    for layer, members in sorted(groups.items()):
        squares = sum(one.squares for one in members)
        kept = sum(one.energy * one.squares for one in members)
        ranks = [one.rank for one in members]
        result[layer] = {
            "tensors": len(members),
            "rank": [min(ranks), max(ranks)],
            "energy": _short(kept / squares),
            "least": _short(min(one.energy for one in members)),
        }
    return result


def lines(notes: Row) -> list[str]:
    """The summary for the terminal: a table by kind of layer, then what is not low-rank."""
    rows = [("layer", "tensors", "rank", "energy", "least"), *map(_cells, notes["layers"].items())]
    widths = [max(len(row[place]) for row in rows) for place in range(5)]
    table = ["  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    return [*table, *_rest(notes), f"energy kept, all tensors: {notes['energy']:.4f}"]


def _cells(item: tuple[str, Row]) -> tuple[str, ...]:
    layer, row = item
    low, high = row["rank"]
    rank = f"{low}" if low == high else f"{low}-{high}"
    return layer, f"{row['tensors']}", rank, f"{row['energy']:.4f}", f"{row['least']:.4f}"


def _rest(notes: Row) -> Iterable[str]:
    if notes["saved_whole"]:
        names = ", ".join(notes["saved_whole"])
        shown = names if len(names) < 60 else f"{len(notes['saved_whole'])} modules"
        yield f"stored whole: {shown}"
    if notes["biases"]:
        yield f"biases stored as they are: {notes['biases']}"
    reasons: dict[str, int] = {}
    for row in notes["left_out"].values():
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    for reason, count in sorted(reasons.items()):
        yield f"warning: left out, {reason}: {count} changed tensors"


def card(record: Row, base_name: str) -> str:
    """README.md of the adapter folder, the same for the same run record."""
    front = {"base_model": base_name, "library_name": "peft", "tags": ["lora", "smelt"]}
    notes = [line for line in lines(record) if not line.startswith(("layer", *record["layers"]))]
    table = ["| layer | tensors | rank | energy | least |", "|---|--:|--:|--:|--:|"]
    table += ["| " + " | ".join(_cells(item)) + " |" for item in record["layers"].items()]
    head = yaml.safe_dump(front, sort_keys=True, allow_unicode=True).strip()
    return "\n".join([
        f"---\n{head}\n---\n",
        "# LoRA adapter\n",
        f"Made by `smelt extract` (smelt {record['smelt']}, key `{record['key']}`): the difference "
        "of a fine-tuned model to its base, each matrix by its largest singular values.\n",
        *table,
        "\nEnergy is the share of the squared change that the adapter holds; `least` that of the "
        "worst tensor.\n",
        *(f"- {line}" for line in notes),
        "\n## Loading\n",
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n",
        f'base = AutoModelForCausalLM.from_pretrained("{base_name}")',
        'model = PeftModel.from_pretrained(base, ".")  # this folder\n```\n',
        "It inherits the licence terms of the base and of the data that the model was tuned on.",
    ]) + "\n"  # fmt: skip
