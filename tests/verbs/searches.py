"""What tests of `smelt search` share: models, a recipe, and what came of it."""

from pathlib import Path
from typing import Any

from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.data.document import write_jsonl
from smelt.models.fitness import RowFitness
from smelt.models.load import load_model
from smelt.search.prepare import prepare
from tests.merge.conftest import finetune
from tests.pico import pico_llama
from tests.train.rows import SUMS, pair


def make_models(home: Path) -> Path:
    """Base and two experts, with rows to score merges on."""
    pico_llama(home / "base", layers=3)
    finetune(home / "base", home / "math", 1)
    finetune(home / "base", home / "code", 2)
    rows = [pair(*one, domain="sum") for one in SUMS[:12]]
    write_jsonl(home / "fitness.jsonl", [*rows, pair("rev[12]=", "[21].", domain="rev")])
    return home


def recipe(layer_groups: Any = 1, **changes: Any) -> dict[str, Any]:
    search: dict[str, Any] = {
        "fitness": {"data": "fitness.jsonl", "domains": {"sum": 2.0, "rev": 1.0},
                    "measure": "likelihood"},
        "evaluations": 12,
        "layer_groups": layer_groups,
    }  # fmt: skip
    return {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "math"}, {"model": "code", "parameters": {"weight": 0.4}}],
        "parameters": {"weight": "search", "lambda": "search"},
        "search": {**search, **changes},
    }


def value(folder: Path) -> float:
    """The fitness of a checkpoint folder, on all items."""
    rows = prepare(recipe(), "r").fitness_rows
    fitness = RowFitness(load_model(folder), open_tokenizer(folder), rows,
                         {"sum": 2.0, "rev": 1.0}, "likelihood")  # fmt: skip
    scores, _ = fitness(list(range(len(fitness.weights))))
    return sum(w * s for w, s in zip(fitness.weights, scores, strict=True))
