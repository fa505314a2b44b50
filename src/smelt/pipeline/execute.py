"""Run the stages of a recipe for every seed; finished ones are skipped by content hash."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smelt import __version__
from smelt.core import digest, progress
from smelt.core.errors import UserError
from smelt.core.run import write_atomic
from smelt.pipeline.recipe import RunRecipe, Stage, located
from smelt.pipeline.workers import run_jobs

Execute = Callable[..., None]
MARK = "recipe.json"


def _own(out: Path) -> None:
    """Refuse a folder with other people's files in it: stages inside it will be replaced."""
    if out.exists() and not out.is_dir():
        raise UserError(out, "not a folder", "a folder for the results")
    # A first start that was killed may have left no more than the mark, half written.
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if names - {f"{MARK}.partial"} and MARK not in names:
        raise UserError(out, "a folder that is not ours", "a new or empty folder", "another --out")


def run_seed(
    stages: list[Stage], seed: int, out: Path, device: str, verb_of: Callable[[str], Execute]
) -> None:
    """All stages of one seed, in order."""
    folder = out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with progress.Bar(f"seed {seed}: stages", len(stages)) as bar:
        for stage in stages:
            where = f"seed {seed}, stage {stage.name}"
            data = located(stage.recipe, folder)
            verb_of(stage.verb)(
                data, folder / stage.name, where=where, seed=seed, device=device, replace=True
            )
            bar.move()


def execute_run(
    recipe: RunRecipe, out: Path, *, device: str, verb_of: Callable[[str], Execute]
) -> dict[str, Any]:
    """Run everything; returns the run record, written to OUT/run.json when all is done.

    verb_of: name -> execute function of the verb (a module-level function, since it is sent to
    worker processes).
    """
    out = out.absolute()
    _own(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(out, f"cannot write ({error.strerror})", "a folder for results") from error
    content = recipe.model_dump(mode="json")
    write_atomic(out / MARK, json.dumps(content, indent=1, sort_keys=True) + "\n")
    (out / "run.json").unlink(missing_ok=True)
    jobs = [(recipe.stages, seed, out, device, verb_of) for seed in recipe.seeds]
    run_jobs(run_seed, jobs, workers=min(recipe.workers, len(jobs)), threads=recipe.threads)
    record = {
        "verb": "run",
        "smelt": __version__,
        "key": digest.value(["run", content, __version__]),
        "seed": recipe.seeds[0],
        "title": recipe.title,
        "recipe": content,
        "inputs": {},
        "stages": [
            {"name": s.name, "verb": s.verb, "seed": seed, "path": f"seed-{seed}/{s.name}"}
            for seed in recipe.seeds
            for s in recipe.stages
        ],
    }
    write_atomic(out / "run.json", json.dumps(record, indent=1, sort_keys=True) + "\n")
    return record
