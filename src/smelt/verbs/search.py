"""Search merge parameters, per layer if wanted, for the best fitness; merged in memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from smelt.core import registry
from smelt.core.run import Run
from smelt.verbs._options import recipe_verb
from smelt.verbs.train import write_card

if TYPE_CHECKING:
    from smelt.search.space import Gene

BEST = """\
# The best merge of a search. Model paths start at the folder that holds the result folder, so call
# `smelt merge` there: cd THAT_FOLDER && smelt merge RESULT/best.yaml OUT
"""


def shape(data: dict[str, Any], *, where: str) -> None:
    """Validate keys only: what can be known before the inputs exist."""
    from smelt.search.prepare import parse_keys

    parse_keys(data, where)


def check(data: dict[str, Any], *, where: str) -> list[str]:
    """Validate recipe, models, fitness data and start; lines about the space."""
    from smelt.search.prepare import prepare

    ready = prepare(data, where)
    section, space = ready.section, ready.space
    lines = [
        f"{len(space.genes)} parameters x {len(space.groups)} layer groups = {space.size} genes",
        f"{section.evaluations} candidates by {section.algorithm}, each scored on "
        f"{sum(map(len, ready.fitness_rows.values()))} rows of "
        f"{', '.join(ready.fitness_rows)} ({section.fitness.measure})",
    ]
    return lines


def execute(
    data: dict[str, Any],
    out: Path,
    *,
    where: str,
    seed: int = 0,
    device: str = "cpu",
    replace: bool = False,
) -> None:
    """Search, then write the best merge as a checkpoint folder with its plain recipe."""
    import yaml

    from smelt.checkpoint.tokenizer import open_tokenizer
    from smelt.core.seed import seed_for
    from smelt.merge.apply import InMemory, merge_to_folder
    from smelt.merge.plan import plan
    from smelt.merge.recipe import parse_recipe
    from smelt.models.fitness import Fitness
    from smelt.models.load import network_of, pick_device
    from smelt.search.evolve import evolve
    from smelt.search.prepare import prepare

    ready = prepare(data, where)
    section, space = ready.section, ready.space
    run = Run(out, "search", ready.located(data), ready.inputs, seed=seed, replace=replace)
    if run.done:
        return
    with run:
        memory = InMemory(ready.recipe, where)
        donor = memory.plan.models[memory.plan.donor].folder
        # Of the result's config: a tied donor may become untied by its experts.
        model = network_of(memory.plan.config, memory.names, pick_device(device))
        fitness = Fitness(model, open_tokenizer(donor), ready.fitness_rows, section.fitness.domains,
                          section.fitness.measure)  # fmt: skip
        start = ready.start(memory)
        plain = {name: memory.values(name) for name in memory.names}
        algorithm = registry.load("search-algorithm", section.algorithm)(
            start, seed_for(seed, "search"), **section.options
        )

        def score(genome: list[float]) -> float:
            merged = memory.merge(
                lambda name: space.parameters(genome, name, plain[name], memory.experts)
            )
            return fitness(merged)

        result = evolve(
            algorithm,
            score,
            run.folder / "journal.jsonl",
            evaluations=section.evaluations,
            label=f"search {out.name} ({section.algorithm})",
        )
        best = ready.located(space.recipe(result.genome))
        merge_to_folder(plan(parse_recipe(best, where), where), run.folder, resume=True)
        values = [
            [
                round(space.value(result.genome, gene, group), 6)
                for group in range(len(space.groups))
            ]
            for gene in range(len(space.genes))
        ]
        run.note(
            method=memory.plan.method.name,
            fitness={
                "start": result.start,
                "best": result.best,
                "evaluations": result.evaluations,
                "split": Path(section.fitness.data).name,
                "domains": section.fitness.domains,
            },
            coefficients={
                "rows": [_label(gene, best) for gene in space.genes],
                "columns": [group.label for group in space.groups],
                "values": values,
            },
            best_recipe=run.relative(best),
        )
        text = yaml.safe_dump(run.relative(best), sort_keys=True, allow_unicode=True)
        (run.folder / "best.yaml").write_text(BEST + text, encoding="utf-8")
        write_card(run)


def _label(gene: "Gene", best: dict[str, Any]) -> str:
    from smelt.merge.recipe import model_name

    if gene.model is None:
        return gene.key
    return f"{gene.key} of {Path(model_name(best['models'][gene.model]['model'])).name}"


search = recipe_verb("search", execute)
