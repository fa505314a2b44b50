"""Fuse models of any architecture and tokenizer into a pivot, through their distributions."""

from functools import partial
from pathlib import Path
from typing import Any

from smelt.core import registry
from smelt.core.run import Run
from smelt.verbs._options import recipe_verb
from smelt.verbs.train import write_card


def shape(data: dict[str, Any], *, where: str) -> None:
    """Validate keys only: what can be known before the inputs exist."""
    from smelt.train.fuse import parse_keys

    parse_keys(data, where)


def check(data: dict[str, Any], *, where: str) -> list[str]:
    """Validate recipe, models, tokenizers and pairs; lines about tokens and the store."""
    from smelt.train.fuse import read_fuse_recipe, rows_of
    from smelt.train.prepare import describe

    recipe = read_fuse_recipe(data, where)
    rows = rows_of(recipe, where)
    num_bytes = sum(len(row.text.encode()) for row in rows)
    store = num_bytes * (8 * recipe.top_k + 12) / 2**20
    return [
        f"{len(rows)} pairs, {num_bytes} bytes; pivot {recipe.pivot}",
        *(f"source {name}: {folder}" for name, folder in recipe.sources.items()),
        f"store: at most {store:.1f} MB a model while it runs",
        *describe(recipe.training(), where),
    ]


def execute(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
) -> None:
    """Capture, align, combine, distill. With the same seed and phases a `train` of stage sft reads
    the same batches in the same order: the control of a fusion."""
    from smelt.checkpoint.reader import local_path
    from smelt.core.seed import seed_for
    from smelt.models.load import count_parameters, pick_device, save_model
    from smelt.train import fuse as fusion
    from smelt.train import state
    from smelt.train.loop import train_loop
    from smelt.train.prepare import inputs_of, open_model

    recipe = fusion.read_fuse_recipe(data, where)
    training = recipe.training()
    content = recipe.model_dump(mode="json", exclude={"checkpoint_seconds"})
    inputs = inputs_of(training) | {
        f"sources.{n}": local_path(p) for n, p in recipe.sources.items()
    }
    run = Run(out, "fuse", content, inputs, seed=seed, replace=replace)
    if run.done:
        return
    with run:
        target_device = pick_device(device)
        stores = run.folder / "stores"
        model, tokenizer = open_model(training, seed, target_device, where)
        order = seed_for(seed, "data")
        rows = fusion.rows_read(recipe, fusion.rows_of(recipe, where), tokenizer, order)
        targets, index = fusion.capture_all(recipe, rows, stores, target_device)
        metrics = train_loop(
            model,
            tokenizer,
            training,
            partial(registry.load("stage", "distill"), **training.options),
            run.folder,
            seed=order,
            label=f"fuse {out.name}",
            prepare=fusion.attach(targets, index),
        )
        save_model(model, tokenizer.folder, run.folder)
        state.remove(run.folder)
        fusion.remove_stores(stores)
        if left_out := metrics.pop("left_out", None):
            run.note(left_out=left_out)
        run.note(metrics=metrics, parameters=count_parameters(model), **targets.notes)
        write_card(run)


fuse = recipe_verb("fuse", execute)
