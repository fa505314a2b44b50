"""Will these models merge, and what would a search take? Answered by their config.json alone."""

from typing import Any

from smelt.checkpoint import layout
from smelt.core import registry
from smelt.core.errors import UserError
from smelt.merge.compatible import compare_configs
from smelt.merge.recipe import model_name
from smelt.merge.vocab.rows import vocabulary_tensors
from smelt.models.by_config import (
    ASSUMED,
    BANDWIDTH,
    DTYPE_BYTES,
    MEMORY,
    NEW_TOKENS,
    PROMPT_TOKENS,
    Configured,
    answering_hours,
    bytes_each,
    find_config,
    num_cards,
    num_parameters,
    shapes_of,
)
from smelt.search.fitness import per_stage
from smelt.search.genes import without_marks
from smelt.search.prepare import parse_keys
from smelt.search.recipe import SearchSection
from smelt.search.space import stages


def describe_by_config(data: dict[str, Any], where: str) -> list[str]:
    """Lines about a search recipe of which no weights are here: family, traps, genes, cost.

    Raises UserError for models that cannot be merged, or a recipe that is unsound.
    """
    section, merge_data, genes = parse_keys(data, where)
    base = merge_data.get("base_model")
    entries = ([base] if base is not None else []) + [e["model"] for e in merge_data["models"]]
    models = {model_name(entry): find_config(entry, where) for entry in entries}
    lines = [f"{name}: {one.source}" for name, one in models.items()]
    lines += [f"warning: {text}" for text in compare_configs(models)]
    lines += _vocabularies(merge_data, models, where)
    shapes = {name: shapes_of(one.config, f"{where}: {name}") for name, one in models.items()}
    (first, reference), *others = shapes.items()
    for name, found in others:
        _same_tensors(name, found, first, reference, where)
    # With a head of its own in one model, the result has one too.
    tensors = list(dict.fromkeys(tensor for one in shapes.values() for tensor in one))
    spaces = stages(
        without_marks(merge_data, genes), genes, tensors, section.stages, f"{where}: search",
        components=section.components, smooth=section.smooth,
    )  # fmt: skip
    counts = [space.size for space in spaces]
    lines.append(f"{len(genes)} parameters: {' then '.join(map(str, counts))} genes")
    return lines + _cost(section, models, shapes)


def _vocabularies(data: dict[str, Any], models: dict[str, Configured], where: str) -> list[str]:
    rows = {name: one.config.get("vocab_size") for name, one in models.items()}
    if len(set(rows.values())) == 1:
        return []
    listed = ", ".join(f"{count} in {name}" for name, count in rows.items())
    source = data.get("tokenizer_source") or data.get("tokenizer")
    if source is None:
        raise UserError(
            where, f"embeddings of other sizes: {listed}",
            "`tokenizer_source: base`, which moves the rows of embeddings by token",
        )  # fmt: skip
    return [f"embedding rows: {listed}; moved by token (tokenizer_source: {source})"]


def _same_tensors(
    name: str,
    found: dict[str, tuple[int, ...]],
    first: str,
    expected: dict[str, tuple[int, ...]],
    where: str,
) -> None:
    for tensor in sorted(set(found) | set(expected)):
        one, other = found.get(tensor), expected.get(tensor)
        if one is None or other is None:
            if layout.head_and_embedding([tensor])[0] is not None:
                continue  # the other's head is its embedding, and the result has a head of its own
            raise UserError(
                where, f"tensor '{tensor}' is in only one of {first} and {name}",
                "models of one architecture", "smelt fuse joins others",
            )  # fmt: skip
        if one != other and (one[1:] != other[1:] or tensor not in vocabulary_tensors(found, name)):
            raise UserError(
                where, f"tensor '{tensor}' is {one} in {name} and {other} in {first}",
                "models of one shape", "smelt fuse joins others",
            )  # fmt: skip


def _cost(
    section: SearchSection,
    models: dict[str, Configured],
    shapes: dict[str, dict[str, tuple[int, ...]]],
) -> list[str]:
    """Disk, memory and GPU-hours of a search, with every assumption in the line."""
    sizes = {name: num_parameters(one) for name, one in shapes.items()}
    widths = {name: bytes_each(one.config) for name, one in models.items()}
    stored = sum(size * widths[name] for name, size in sizes.items())
    largest = max(sizes.values())
    held = 4 * sum(sizes.values())
    fitness = section.fitness
    candidates = sum(count for count, _ in per_stage(section))
    items = sum(_num_items(fitness.limit, name) for name in fitness.benchmarks)
    items = items or fitness.limit * len(fitness.domains)
    width = DTYPE_BYTES[fitness.dtype]
    cards = num_cards(largest, width)
    beyond = ", more than the one that a search puts it on" if cards > 1 else ""
    new = fitness.max_new_tokens or NEW_TOKENS
    one = answering_hours(largest, width, items, PROMPT_TOKENS, new) + held / BANDWIDTH / 3600
    return [
        f"disk: {stored / 1e9:.0f} GB to download, {largest * 2 / 1e9:.0f} GB for the result",
        f"memory: {held / 1e9:.0f} GB for base and experts in float32, and {cards} "
        f"GPU of {MEMORY / 1e9:.0f} GB for the candidate in {fitness.dtype}{beyond}",
        f"about {candidates * one:.1f} GPU-hours for {candidates} candidates x {items} items, "
        f"without racing ({ASSUMED}; prompts of {PROMPT_TOKENS} tokens, answers of {new})",
    ]


def _num_items(limit: int, name: str) -> int:
    """Of a benchmark's fitness split, as its file says."""
    benchmark = registry.load("benchmark", name)
    return min(limit, int(benchmark.splits.get(benchmark.fitness_split, limit)))
