"""What a search needs before it starts: the space, the fitness rows and the start point."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smelt.checkpoint.reader import read_optional_json
from smelt.core import config, registry
from smelt.core.errors import UserError
from smelt.data.document import Document, read_jsonl
from smelt.merge import record
from smelt.merge.apply import InMemory
from smelt.merge.plan import MergePlan, plan
from smelt.merge.recipe import MergeRecipe, parse_recipe
from smelt.search.recipe import SearchSection
from smelt.search.space import Gene, Space, find_genes, group_tensors, without_marks


@dataclass(frozen=True)
class Ready:
    """A checked search. `start(memory)` is the genome where it begins."""

    section: SearchSection
    recipe: MergeRecipe
    plan: MergePlan
    space: Space
    fitness_rows: dict[str, list[Document]]
    inputs: dict[str, str]
    start: Callable[[InMemory], list[float]]

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
    place = f"{where}: search.options"
    registry.check_keywords("search-algorithm", section.algorithm, section.options, place)
    # Made once for nothing, so that a missing package or a bad option is found before any work.
    registry.load("search-algorithm", section.algorithm)([0.5], 0, **section.options)
    parse_recipe(merge_data, where)  # `search` is a word, which every setting may be
    return section, merge_data, find_genes(merge_data, where)


def prepare(data: dict[str, Any], where: str) -> Ready:
    """Check everything a user can get wrong: keys, models, data, start. Raises UserError."""
    section, merge_data, genes = parse_keys(data, where)
    plain = without_marks(merge_data, genes)
    recipe = parse_recipe(plain, where)
    found = plan(recipe, where)
    _refuse_another_tokenizer(found)
    names = [item.entry.name for item in found.tensors if not item.copied]
    space = Space(plain, genes, group_tensors(names, section.layer_groups, where))
    inputs = {**record.inputs(found), "fitness": section.fitness.data}
    warm = None
    if section.warm_start is not None:
        warm = _warm_file(section.warm_start, where)
        inputs["warm_start"] = section.warm_start
    return Ready(
        section,
        recipe,
        found,
        space,
        _fitness_rows(section, where),
        inputs,
        lambda memory: _start(space, memory, warm, where),
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


def _fitness_rows(section: SearchSection, where: str) -> dict[str, list[Document]]:
    path, place = Path(section.fitness.data), f"{where}: search.fitness"
    if not path.is_file():
        raise UserError(place, f"no such file: {path}", "JSONL rows")
    if path.resolve().name.partition(".")[0] == "test":
        raise UserError(place, f"{path} is a test split", "rows that no test will ask")
    beside = [path.with_name(f"test.jsonl{ending}") for ending in ("", ".gz")]
    asked = {row.id for test in beside if test.is_file() for row in read_jsonl(test)}
    rows: dict[str, list[Document]] = {name: [] for name in section.fitness.domains}
    seen = set()
    for row in read_jsonl(path):
        seen.add(row.domain)
        if row.id in asked:
            shared = f"row {row.id} of {path} also stands in the test split beside it"
            raise UserError(place, shared, "rows that no test will ask")
        if row.prompt and row.domain in rows and len(rows[row.domain]) < section.fitness.limit:
            rows[row.domain].append(row)
    for name, found in rows.items():
        if not found:
            known = ", ".join(sorted(seen)) or "none"
            raise UserError(place, f"no pairs of domain '{name}'", known)
    return rows


def _start(space: Space, memory: InMemory, warm: Path | None, where: str) -> list[float]:
    """The recipe's plain values, or those of a warm start, as a genome (clipped to its ranges).

    A group that had several values starts at that of its first tensor.
    """
    chosen = memory.plan
    if warm is not None:
        recipe = parse_recipe(_absolute(config.read_yaml(warm), warm.parent), str(warm))
        chosen = plan(recipe, str(warm))
        if _merged(chosen) != _merged(memory.plan):
            found = f"{warm} merges other models, or by another method"
            raise UserError(f"{where}: warm_start", found, "the same models and method")
    values = {item.entry.name: item.values for item in chosen.tensors if not item.copied}
    rows = []
    for gene in space.genes:
        row = []
        for group in space.groups:
            value = values[min(group.tensors)][gene.name]
            if gene.model is not None:
                value = value[space.place(gene, memory.experts)]
            row.append(float(value))
        rows.append(row)
    return space.encode(rows)


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
