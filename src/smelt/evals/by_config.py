"""What an eval recipe would take, and which of its models can be merged: by config.json alone."""

import math
from typing import Any

from smelt.checkpoint import layout
from smelt.core import registry
from smelt.core.errors import UserError
from smelt.evals import lm_eval
from smelt.evals.benchmark import Benchmark
from smelt.evals.evaluate import check_shape
from smelt.evals.exam import check_form
from smelt.evals.models import entry_of
from smelt.evals.recipe import EvalRecipe
from smelt.models.by_config import (
    ASSUMED,
    DTYPE_BYTES,
    PROMPT_TOKENS,
    answering_hours,
    bytes_each,
    find_config,
    num_cards,
    num_parameters,
    shapes_of,
)


def describe_by_config(data: dict[str, Any], where: str) -> list[str]:
    """Lines about models of which no weights are here: families, disk, GPU-hours.

    A family shares architecture and the shapes of all tensors but the embeddings: its members can
    be merged if they have a common ancestor, which only weights (`smelt inspect`) or their authors
    can tell. Raises UserError for an unsound recipe.
    """
    recipe = check_shape(data, where)
    lines: list[str] = []
    families: dict[tuple[Any, ...], list[str]] = {}
    stored, hours, cards = 0, 0.0, 1
    asked = _asked(recipe, where)
    for name, model in recipe.models.items():
        entry = entry_of(model)
        if entry.backend not in ("transformers", "vllm"):
            raise UserError(f"{where}: models.{name}", f"behind {entry.backend}", "a checkpoint")
        found = find_config(entry.model, f"{where}: models.{name}")
        shapes = shapes_of(found.config, f"{where}: models.{name}")
        size = num_parameters(shapes)
        # Learned positions (wpe) are no vocabulary: their number must agree.
        inner = {key: shape for key, shape in shapes.items()
                 if layout.block_of(key) not in ("embedding", "head") or "wpe" in key}  # fmt: skip
        families.setdefault((found.config["model_type"], *sorted(inner.items())), []).append(name)
        stored += size * bytes_each(found.config)
        usual = "float32" if entry.backend == "transformers" else "auto"  # auto: as it is stored
        width = DTYPE_BYTES.get(entry.options.get("dtype", usual), bytes_each(found.config))
        cards = max(cards, num_cards(size, width))
        hours += sum(
            answering_hours(size, width, items, PROMPT_TOKENS, new) for items, new in asked
        )
        lines.append(f"{name}: {size / 1e9:.1f}e9 parameters; {found.source}")
    for members in families.values():
        told = "can be merged if their ancestor is one" if len(members) > 1 else "to be fused only"
        lines.append(f"family of {', '.join(members)}: {told}")
    items = sum(count for count, _ in asked)
    lines.append(f"disk: {stored / 1e9:.0f} GB to download; up to {cards} GPU of 80 GB for a model")
    lines.append(
        f"about {hours:.1f} GPU-hours for {len(recipe.models)} models x {items} items ({ASSUMED}; "
        f"prompts of {PROMPT_TOKENS} tokens, answers of the benchmarks' budgets)"
    )
    return lines


def _asked(recipe: EvalRecipe, where: str) -> list[tuple[int, int]]:
    """(answers, budget of each) of each benchmark, as its file says. Raises UserError."""
    found = []
    for entry in recipe.benchmarks:
        if lm_eval.is_task(entry.name):
            continue
        benchmark: Benchmark = registry.load("benchmark", entry.name)
        items = benchmark.splits.get(entry.split or benchmark.test_split)
        if items is None:
            raise UserError(
                f"{where}: {entry.name}", "no number of items known of this split",
                f"one of: {', '.join(benchmark.splits) or 'none, the rows are your own'}",
                "smelt check without --config-only reads the file",
            )  # fmt: skip
        check_form(entry, benchmark, where)
        # Which form `auto` is, only the model's template tells: the dearest that it may be.
        auto = entry.form == "auto"
        forms = benchmark.forms.values() if auto else [benchmark.forms[entry.form]]
        costs = [
            (1, 1)
            if form.options is not None
            else (recipe.samples, recipe.max_new_tokens or form.max_new_tokens)
            for form in forms
        ]
        answers, new = max(costs, key=math.prod)
        found.append((min(items, entry.limit or items) * answers, new))
    return found
