"""The items of a search: which of the two sides are asked, and what each counts."""

import json
from pathlib import Path

import pytest

from smelt.evals.candidates import items_of, prepare_sides
from smelt.evals.fitness import exam_weights
from tests.verbs.searches import make_models, recipe


def write(path: Path, kind: str, subjects: list[str]) -> None:
    rows = [
        {"id": f"{kind}{n}", "question": f"{kind} {n}?", "choices": ["w", "x", "y", "z"],
         "answer": "A", "subject": subject}
        for n, subject in enumerate(subjects)
    ]  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_both_sides_take_subjects_in_turn_and_items_share_a_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_models(tmp_path))
    subjects = ["law", "law", "law", "law", "art", "art", "math"]
    write(tmp_path / "mmlu/validation.jsonl", "v", subjects)
    write(tmp_path / "mmlu/test.jsonl", "t", subjects)
    write(tmp_path / "arc_easy/validation.jsonl", "a", ["", ""])
    weights = {"mmlu": 3.0, "arc_easy": 1.0}
    fitness = {"benchmarks": weights, "folder": ".", "limit": 4, "form": "base"}
    sides = prepare_sides(recipe(fitness=fitness), "r")
    kept = [[item.id[1:] for item in exam.items] for exam in (*sides.fitness, *sides.test)]
    assert kept == [["0", "1", "4", "6"], ["0", "1"], ["0", "1", "4", "6"]]
    wanted = ["mmlu"] * 4 + ["arc_easy"] * 2, [3 / 4 / 4] * 4 + [1 / 4 / 2] * 2
    assert items_of(sides) == exam_weights(sides.fitness, weights) == wanted
