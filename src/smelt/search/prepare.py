"""What a search needs before it starts: the space, the fitness rows and the start point."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smelt.checkpoint.reader import read_optional_json
from smelt.core import config, registry
from smelt.core.errors import UserError
from smelt.merge import record
from smelt.merge.apply import experts_of
from smelt.merge.plan import MergePlan, plan
from smelt.merge.recipe import MergeRecipe, parse_recipe
from smelt.search.fitness import Rows, check_section, read_fitness, read_test, test_files
from smelt.search.genes import Gene, as_words, find_genes, without_marks
from smelt.search.recipe import SearchSection
from smelt.search.space import Space, at_values, stages


@dataclass(frozen=True)
class Ready:
    """A checked search. `spaces` has one for each stage, coarse to fine (`space.carry` leads from
    one to the next); `start()` is the genome of the first where it begins."""

    section: SearchSection
    recipe: MergeRecipe
    plan: MergePlan
    spaces: list[Space]
    fitness_rows: Rows
    test_rows: Rows
    inputs: dict[str, str]
    start: Callable[[], list[float]]

    def located(self, data: dict[str, Any]) -> dict[str, Any]:
        """A recipe of the same models, with them as absolute paths (Run makes them relative)."""
        names = record.recipe_data(self.plan)
        keys = ("base_model", "tokenizer_source", "tokenizer")
        moved = {**data, **{key: names[key] for key in keys if key in names}}
        moved["models"] = [
            {**entry, **{key: own[key] for key in ("model", "statistics") if key in own}}
            for entry, own in zip(data["models"], names["models"], strict=True)
        ]
        return moved


def parse_keys(
    data: dict[str, Any], where: str
) -> tuple[SearchSection, dict[str, Any], list[Gene]]:
    """The search section, the merge recipe around it, its genes; no file is looked at."""
    merge_data = {key: value for key, value in data.items() if key not in ("search", "verb")}
    see = "smelt show verb search"
    section = config.parse(SearchSection, data.get("search"), f"{where}: search", see)
    check_section(section, f"{where}: search")
    place = f"{where}: search.options"
    listed = section.options if isinstance(section.options, list) else [section.options]
    for options in listed:
        if "objectives" in options:
            raise UserError(f"{place}.objectives", "an option", "the key search.objectives")
        given = {**options, "objectives": len(section.objectives)}
        registry.check_keywords("search-algorithm", section.algorithm, given, place)
        # Made once for nothing, so that a missing package or a bad option is found before any work.
        registry.load("search-algorithm", section.algorithm)([0.5], 0, **given)
    parse_recipe(as_words(merge_data), where)  # a word is what every setting may be
    return section, merge_data, find_genes(merge_data, where)


def prepare(data: dict[str, Any], where: str) -> Ready:
    """Check everything a user can get wrong: keys, models, data, start. Raises UserError."""
    section, merge_data, genes = parse_keys(data, where)
    plain = without_marks(merge_data, genes)
    recipe = parse_recipe(plain, where)
    found = plan(recipe, where)
    _refuse_another_tokenizer(found)
    names = [item.entry.name for item in found.tensors if not item.copied]
    spaces = stages(
        plain, genes, names, section.stages, f"{where}: search",
        components=section.components, smooth=section.smooth,
    )  # fmt: skip
    place = f"{where}: search.fitness"
    rows, tests = read_fitness(section.fitness, place), read_test(section.fitness, place)
    inputs = record.inputs(found)
    if section.fitness.data is not None:
        inputs["fitness"] = section.fitness.data
    if shown := test_files(section.fitness, place):
        inputs["test"] = str(shown[0])
    warm = None
    if section.warm_start is not None:
        warm = _warm_file(section.warm_start, where)
        inputs["warm_start"] = section.warm_start
    return Ready(
        section,
        recipe,
        found,
        spaces,
        rows,
        tests,
        inputs,
        lambda: _start(spaces[0], found, warm, where),
    )


def _refuse_another_tokenizer(found: MergePlan) -> None:
    """Candidates are scored with the tokenizer of the donor, so it must be that of the result."""
    if found.vocabulary is None:
        return
    donor, made = found.models[found.donor].folder, found.vocabulary.tokenizer
    name = "tokenizer_config.json"
    same = made.data == read_optional_json(donor / "tokenizer.json") and (
        read_optional_json(made.folder / name) == read_optional_json(donor / name)
    )
    if not same:
        key = "tokenizer" if found.recipe.tokenizer is not None else "tokenizer_source"
        raise UserError(
            f"{found.where}: {key}",
            f"a tokenizer that is not that of {found.donor}, which scores the candidates",
            f"the tokenizer of {found.donor}",
            "smelt merge each model with this tokenizer first, then search over the results",
        )


def _warm_file(text: str, where: str) -> Path:
    path = Path(text) / "best.yaml" if Path(text).is_dir() else Path(text)
    if not path.is_file():
        expected = "a recipe or the result folder of a search"
        raise UserError(f"{where}: warm_start", f"no such recipe: {path}", expected)
    return path


def _start(space: Space, own: MergePlan, warm: Path | None, where: str) -> list[float]:
    """The recipe's plain values, or those of a warm start, as a genome (clipped to its ranges).

    From any granularity to any: groups take what is nearest to the values of their tensors.
    """
    chosen, place = own, where
    if warm is not None:
        recipe = parse_recipe(_absolute(config.read_yaml(warm), warm.parent), str(warm))
        chosen, place = plan(recipe, str(warm)), f"{where}: warm_start"
        if _merged(chosen) != _merged(own):
            found = f"{warm} merges other models, or by another method"
            raise UserError(place, found, "the same models and method")
    values = {item.entry.name: item.values for item in chosen.tensors if not item.copied}
    return at_values(space, values, experts_of(own), place)


def _merged(found: MergePlan) -> list[Any]:
    """What two recipes must share so that the values of one are meant for the other."""
    merged = [item for item in found.tensors if not item.copied]
    folders = [
        [folder.resolve() for folder in found.models[model].folders().values()]
        for model, _ in merged[0].experts
    ]
    return [found.method.name, folders, [item.entry.name for item in merged]]


def _absolute(data: Any, folder: Path) -> Any:
    """A recipe whose relative model paths are read from the folder that it lies in."""
    if not isinstance(data, dict):
        return data
    moved = dict(data)
    if "base_model" in moved:
        moved["base_model"] = _locate(moved["base_model"], folder)
    if isinstance(moved.get("models"), list):
        moved["models"] = [
            {**entry, "model": _locate(entry["model"], folder)}
            if isinstance(entry, dict) and "model" in entry
            else entry
            for entry in moved["models"]
        ]
    return moved


def _locate(model: Any, folder: Path) -> Any:
    # best.yaml names models relative to the parent of the result folder that it lies in.
    if isinstance(model, dict):
        return {
            key: _locate(value, folder) if key in ("model", "lora", "path") else value
            for key, value in model.items()
        }
    if not isinstance(model, str):
        return model
    beside = folder.parent / model
    return str(beside) if beside.exists() else model
