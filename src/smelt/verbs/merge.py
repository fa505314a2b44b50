"""Merge experts of one architecture into one model; reads mergekit's YAML as it is.

Example: smelt merge recipe.yaml OUT. The recipe names `merge_method`, `base_model`, `models` or
`slices`, and `parameters`: numbers, lists over depth, or lists of {filter, value}.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smelt.verbs._options import (
    Device,
    OutFolder,
    OutOption,
    RecipePath,
    Seed,
    Settings,
    out_folder,
    read_recipe,
)

if TYPE_CHECKING:
    from smelt.merge.plan import MergePlan

SMOKE = "smoke.json"
SMOKE_BYTES = 2_000_000_000
_TORCH_BYTES = 500_000_000
"""What torch and transformers hold beside a model."""
Smoke = Annotated[
    bool | None,
    typer.Option("--smoke/--no-smoke", help="Test the result on a small text beside its parents."),
]


def execute(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
    smoke: bool | None = None,
) -> None:
    """Merge on recipe data. seed: of methods that drop at random; device: where tensors merge;
    smoke: test the result (None: a new one, where that is cheap)."""
    from smelt.core import progress
    from smelt.core.names import short_names
    from smelt.core.run import Run
    from smelt.merge import record
    from smelt.merge.apply import merge_to_folder
    from smelt.report.card import model_card

    device = _device(device)
    plan = _plan(data, where)
    data = record.recipe_data(plan)
    run = Run(out, "merge", data, record.inputs(plan), seed=seed, replace=replace)
    if not run.done:
        for text in plan.warnings:
            progress.say(f"warning: {text}")
        with run:
            found = merge_to_folder(plan, run.folder, seed=seed, device=device, resume=True)
            names = short_names(list(plan.models))
            run.note(
                method=plan.method.name,
                warnings=record.warnings(plan),
                versions=record.versions(device),
                nonfinite={names[name]: count for name, count in found.items()},
            )
            (run.folder / "README.md").write_text(model_card(run.record), encoding="utf-8")
    # The result is there now: a test that the system kills for its memory loses nothing.
    untested = not (run.out / SMOKE).is_file()
    if untested and (smoke or (smoke is None and not run.done)):
        _smoke(plan, run.out, device, forced=smoke is True)


def _device(name: str) -> str:
    """The device to merge on; torch is only asked when it is not the CPU."""
    if name == "cpu":
        return name
    from smelt.core.errors import UserError
    from smelt.models.load import pick_device

    chosen = str(pick_device(name))
    if chosen.startswith("mps"):
        raise UserError("--device", f"{chosen}, which cannot add in float64", "cpu or cuda")
    return chosen


def _smoke(plan: "MergePlan", folder: Path, device: str, *, forced: bool) -> None:
    """Test the result beside its parents, say what was found, and leave it in smoke.json."""
    from smelt.core import progress
    from smelt.core.errors import missing_package
    from smelt.core.names import short_names

    found: dict[str, Any] = {"verdict": "not tested: " + _left_out(plan)}
    if forced or not _left_out(plan):
        adapted = [name for name, model in plan.models.items() if model.adapter is not None]
        merged = {model for item in plan.tensors for model, _ in item.places}
        names = short_names(list(plan.models))
        parents = {
            names[name]: model.folder
            for name, model in plan.models.items()
            if name in merged and name not in adapted
        }
        try:
            from smelt.evals.smoke import smoke

            found = smoke(folder, parents, device=device)
        except ModuleNotFoundError as error:
            told = missing_package(error)
            if told is None:
                raise
            found = {"verdict": f"not tested: {told}"}
    (folder / SMOKE).write_text(
        json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    progress.say(f"smoke test: {found['verdict']}")
    others = found.get("parents", {})
    own = "merged" if "merged" not in others else "this merge"
    for name, bits in [(own, found.get("model")), *others.items()]:
        if bits:
            progress.say(f"  {name}: {bits['bits_per_byte']} bits per byte")


def _left_out(plan: "MergePlan") -> str:
    """Why a smoke test is left out unless it is asked for; empty when it is not."""
    if plan.bytes_written > SMOKE_BYTES:
        size = f"{plan.bytes_written / 1e9:.1f} GB"
        return f"{size} of weights would take long to load (--smoke does it)"
    return "a multi-module model" if "text_config" in plan.config else ""


def shape(data: dict[str, Any], *, where: str) -> None:
    """Validate keys only: what can be known before the inputs exist."""
    from smelt.merge.method import load_method
    from smelt.merge.recipe import parse_recipe

    load_method(parse_recipe(data, where).merge_method)


def check(data: dict[str, Any], *, where: str, every: bool = False) -> list[str]:
    """All checks of a merge, and its resolved plan as lines of text; every: tensor by tensor."""
    from smelt.merge.describe import describe

    plan = _plan(data, where)
    lines = describe(plan, every_tensor=every)
    if not _left_out(plan):
        size = _TORCH_BYTES + 4 * sum(math.prod(item.entry.shape) for item in plan.tensors)
        text = f"smoke test: about {math.ceil(size / 1e7) * 10} MB, --no-smoke leaves it out"
        after = next(at for at, line in enumerate(lines) if line.startswith("expected: "))
        lines.insert(after + 1, text)
    return lines


def _plan(data: dict[str, Any], where: str) -> "MergePlan":
    from smelt.merge.plan import plan
    from smelt.merge.recipe import parse_recipe

    return plan(parse_recipe(data, where), where)


def merge(
    recipe: RecipePath,
    out: OutFolder = None,
    *,
    out_option: OutOption = None,
    seed: Seed = 0,
    device: Device = "cpu",
    smoke: Smoke = None,
    settings: Settings = None,
) -> None:
    """Merge as a recipe says, and test the result on a small text (up to 2 GB of weights)."""
    from smelt.merge.jit import leave_out_scipy

    leave_out_scipy()
    content, where = read_recipe(recipe, settings)
    folder = out_folder(out, out_option, "merge")
    execute(content, folder, where=where, seed=seed, device=device, smoke=smoke)
