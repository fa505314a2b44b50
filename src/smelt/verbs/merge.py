"""Merge experts of one architecture into one model; reads mergekit's YAML as it is.

Example: smelt merge recipe.yaml OUT. The recipe names `merge_method`, `base_model`, `models` or
`slices`, and `parameters`: numbers, lists over depth, or lists of {filter, value}.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from smelt.verbs._options import recipe_verb

if TYPE_CHECKING:
    from smelt.merge.plan import MergePlan


def execute(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
) -> None:
    """Merge on recipe data. Nothing is random and the CPU does the work, whatever the device."""
    from smelt.core import progress
    from smelt.core.run import Run
    from smelt.merge import record
    from smelt.merge.apply import merge_to_folder
    from smelt.report.card import model_card

    plan = _plan(data, where)
    data = record.recipe_data(plan)
    run = Run(out, "merge", data, record.inputs(plan), seed=seed, replace=replace)
    if run.done:
        return
    for text in plan.warnings:
        progress.say(f"warning: {text}")
    with run:
        merge_to_folder(plan, run.folder, resume=True)
        run.note(method=plan.method.name, warnings=record.warnings(plan))
        (run.folder / "README.md").write_text(model_card(run.record), encoding="utf-8")


def shape(data: dict[str, Any], *, where: str) -> None:
    """Validate keys only: what can be known before the inputs exist."""
    from smelt.merge.method import load_method
    from smelt.merge.recipe import parse_recipe

    load_method(parse_recipe(data, where).merge_method)


def check(data: dict[str, Any], *, where: str) -> list[str]:
    """All checks of a merge, and its resolved plan as lines of text."""
    from smelt.merge.plan import describe

    return describe(_plan(data, where))


def _plan(data: dict[str, Any], where: str) -> "MergePlan":
    from smelt.merge.plan import plan
    from smelt.merge.recipe import parse_recipe

    return plan(parse_recipe(data, where), where)


merge = recipe_verb("merge", execute, device=False)
