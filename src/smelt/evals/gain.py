"""Two models on the same items, and the combinatorial gain: a merge on tasks of two skills.

The paper's claim is that a merged model reasons with the skills of several experts at once
(Unconstrained Model Merging, arXiv:2410.13699). Its measure: accuracy on a task that needs two
skills, minus that of the best expert on the same items.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from smelt.core.seed import seed_for
from smelt.evals.statistics import Array, difference_limits, paired

Scored = list[tuple[str, float]]
"""(item, score from 0 to 1) of each answer; an item may have several."""
Samples = Mapping[str, Mapping[str, Scored]]
"""Model -> group -> its scored answers."""
COMBINING = ("merge", "fused", "control", "reference")


def item_means(scored: Scored) -> dict[str, float]:
    """Mean score of each item over its answers, in order of first appearance."""
    found: dict[str, list[float]] = {}
    for name, score in scored:
        found.setdefault(name, []).append(float(score))
    return {name: math.fsum(scores) / len(scores) for name, scores in found.items()}


def _table(samples: Samples, models: list[str], group: str) -> Array:
    """Scores [items, models]. Raises ValueError unless all were asked the same items."""
    columns = [item_means(samples[model][group]) for model in models]
    for model, column in zip(models, columns, strict=True):
        if column.keys() != columns[0].keys():
            raise ValueError(f"{model} and {models[0]} were asked other items of {group}")
    rows = [[column[name] for column in columns] for name in columns[0]]
    return np.asarray(rows, dtype=np.float64)


def comparisons(
    samples: Samples, pairs: list[tuple[str, str]], seed: int = 0
) -> list[dict[str, Any]]:
    """Each pair of models on each group that both answered, see `statistics.paired`."""
    found = []
    for first, second in pairs:
        for group in samples[first]:
            if not samples[first][group] or not samples[second].get(group):
                continue
            table = _table(samples, [first, second], group)
            fact = paired(list(table[:, 0]), list(table[:, 1]),
                          seed_for(seed, "paired", first, second, group))  # fmt: skip
            found.append({"models": [first, second], "benchmark": group, **fact})
    return found


def gains(
    samples: Samples,
    roles: Mapping[str, str],
    pairs: Mapping[str, list[str]],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The combinatorial gain of every merge, fused model, control and reference on every pair.

    pairs: group of a combined skill -> groups of its single skills. A row has the gain with its
    95 % interval, the best expert (on these items) and the gain over every expert (`over`), the
    two accuracies, the model's accuracies on the single skills (`twins`), and their product
    (`independent`): what it would have if it applied each skill as well as it does alone, and
    errors were independent.

    The interval: the best expert is chosen on the items it is judged by, which no interval against
    one expert accounts for. Resampling the maximum does not help either, for it is biased where
    experts are close, as they often are on a task that is none's own. But the gain over the best
    expert is the least of the gains over each, which needs no choice. Its lower limit is the least
    of the lower limits: the one that belongs to the truly best expert is among them and holds in
    97.5 % of cases. Its upper limit is the least of the upper ones, all of which must hold, so each
    is taken at 2.5 % divided by the number of experts. All are limits of paired differences, from
    the same resamples of items. A lower limit above 0 says: better than each of the experts.
    """
    found = []
    experts = [model for model in samples if roles.get(model) == "expert"]
    for pair, skills in pairs.items():
        rivals = [model for model in experts if samples[model].get(pair)]
        if not rivals:
            continue
        for model in samples:
            if roles.get(model) in COMBINING and samples[model].get(pair):
                table = _table(samples, [model, *rivals], pair)
                fact = _gain(table, rivals, seed_for(seed, "gain", model, pair))
                twins = {
                    skill: float(np.mean(list(item_means(samples[model][skill]).values())))
                    for skill in skills
                    if samples[model].get(skill)
                }
                if len(twins) == len(skills):
                    fact["independent"] = round(math.prod(twins.values()), 4)
                fact["twins"] = {skill: round(value, 4) for skill, value in twins.items()}
                found.append({"model": model, "pair": pair, "skills": list(skills), **fact})
    return found


def _gain(table: Array, rivals: list[str], seed: int) -> dict[str, Any]:
    """table: scores [items, 1 + experts], the model's first."""
    differences = table[:, :1] - table[:, 1:]
    limits = difference_limits(differences, seed, high=1 - 0.025 / len(rivals))
    over = differences.mean(axis=0)
    best = int(over.argmin())
    return {
        "best_expert": rivals[best],
        "gain": round(float(over[best]), 4),
        "low": round(min(low for low, _ in limits), 4),
        "high": round(min(high for _, high in limits), 4),
        "over": {name: round(float(gap), 4) for name, gap in zip(rivals, over, strict=True)},
        "accuracy": round(float(table[:, 0].mean()), 4),
        "expert_accuracy": round(float(table[:, 1 + best].mean()), 4),
        "items": len(table),
    }
