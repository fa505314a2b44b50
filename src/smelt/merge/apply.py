"""Carry out a merge plan: streamed to a folder, or again and again in memory for a search."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smelt.checkpoint import folder as files
from smelt.checkpoint.layout import num_layers
from smelt.checkpoint.reader import DTYPES, read_json, to_torch
from smelt.checkpoint.writer import Entry, Writer
from smelt.core import progress
from smelt.core.errors import UserError
from smelt.merge import ops
from smelt.merge.allocator import keep_freed_memory
from smelt.merge.blocks import Blocks
from smelt.merge.measured import Measured
from smelt.merge.nonfinite import Tally
from smelt.merge.plan import MergePlan, plan
from smelt.merge.recipe import MergeRecipe
from smelt.merge.sources import Files, HeldSource, Source, rows_and_columns, store
from smelt.merge.tensors import MERGED, Place, TensorPlan
from smelt.merge.threads import num_threads, worker_threads
from smelt.merge.vocab.moved import MovedSource

if TYPE_CHECKING:
    import torch

Values = dict[str, Any]
Put = Callable[[int, NDArray[Any]], None]
"""Takes a byte offset within a tensor and the array that belongs there."""


def merge_to_folder(
    plan: MergePlan,
    folder: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    resume: bool = False,
) -> dict[str, int]:
    """Merge tensor by tensor into a checkpoint folder, with its config and tokenizer.

    Memory holds a few blocks of rows per thread. resume: keep the complete shards of an interrupted
    call with the same plan; else a folder that holds weights is refused. The same plan and seed
    give the same bytes for any number of threads and any size of shards. Gives, for a recipe that
    counts them, how many NaN and infinities each model held.
    """
    keep_freed_memory()
    items = {item.entry.name: item for item in plan.tensors}
    sources = Sources(plan)

    def work(entry: Entry) -> Counter[str]:
        item = items[entry.name]
        found: Counter[str] = Counter()
        if entry.dtype not in MERGED:
            writer.write(entry, _same_everywhere(plan, item))
            return found
        sources.announce(item)
        tensor = sources.blocks(item, seed=seed, device=device)
        merge_tensor(plan, item, tensor, item.values, lambda at, a: writer.place(entry.name, at, a))
        for place, count in tensor.bad.items():
            if count:
                found[item.places[place][0]] += count
        return found

    entries = [item.entry for item in plan.tensors]
    largest = plan.max_shard_bytes
    try:
        with (
            Writer(folder, entries, max_shard_bytes=largest, resume=resume) as writer,
            worker_threads(threads or num_threads(), "merge") as pool,
        ):
            tally = Tally(writer) if plan.recipe.nonfinite == "count" else None
            for shard in writer.missing():
                done = pool.map(work, shard)
                found: Counter[str] = Counter()
                for counts in progress.track(done, f"merge ({plan.method.name})", len(shard)):
                    found.update(counts)
                if tally is not None:
                    tally.keep(shard[0].name, found)
                writer.end()
    finally:
        sources.close()
    _write_side_files(plan, folder)
    if tally is None:
        return {}
    total = tally.total()
    tally.remove()
    return total


def _write_side_files(plan: MergePlan, folder: Path) -> None:
    files.write_config(folder, plan.config, plan.dtype)
    donor = plan.models[plan.donor].folder
    if plan.vocabulary is None:
        files.copy_side_files(donor, folder, chat_template=plan.chat_template)
        return
    files.copy_files(files.MODEL_FILES, donor, folder)
    path = folder / "generation_config.json"
    if path.is_file():
        moved, _ = plan.vocabulary.translate(plan.donor, read_json(path))
        files.write_json(path, moved)
    plan.vocabulary.write(folder, plan.chat_template)


class Sources:
    """The tensors of a plan as blocks, over files that are opened once. Close it when done."""

    def __init__(self, plan: MergePlan) -> None:
        self.plan = plan
        self.files = Files()
        self._measured = {
            name: Measured(model.statistics, self.files)
            for name, model in plan.models.items()
            if plan.method.extra is not None and model.statistics is not None
        }
        # What random numbers are drawn by is the content of an expert, not its path or its place.
        experts = {model for item in plan.tensors for model, _ in item.experts}
        self._identity = {
            name: plan.models[name].identity() if plan.method.random else name for name in experts
        }

    def blocks(self, item: TensorPlan, *, seed: int, device: str = "cpu") -> Blocks:
        """One float tensor of the result."""
        experts = [self._source(item, place) for place in item.experts]
        return Blocks(
            item.entry.name,
            self._source(item, item.base) if item.base else None,
            experts,
            [self._identity[model] for model, _ in item.experts],
            seed=seed,
            whole=self.plan.method.wants_whole(item.entry.name) and not item.copied,
            device="cpu" if item.copied else device,
            extras=[self._extra(place) for place in item.experts],
            wide=self.plan.recipe.dtype == "float64",
        )

    def _source(self, item: TensorPlan, place: Place) -> Source:
        model, name = place
        if item.rows is None:
            return self.plan.models[model].source(name, self.files)

        def source_of(other: str) -> Source:
            own = name if other == model else self.plan.views[other][item.entry.name]
            return self.plan.models[other].source(own, self.files)

        return MovedSource(item.rows[model], source_of)

    def _extra(self, place: Place) -> Source | None:
        model, name = place
        return self._measured[model].source(name) if model in self._measured else None

    def announce(self, item: TensorPlan) -> None:
        """Tell the system which parts of files come next, so that it reads them ahead."""
        for model, name in item.places:
            spec = self.plan.models[model].spec(name)
            self.files.announce(spec.file, spec.start, spec.num_bytes)

    def close(self) -> None:
        """Close all files."""
        self.files.close()


def _same_everywhere(plan: MergePlan, item: TensorPlan) -> NDArray[Any]:
    """A tensor that is no float, which must be equal in all models. Raises UserError."""
    first, *others = item.experts
    expected = plan.models[first[0]].array(first[1])
    for model, name in others:
        if not np.array_equal(plan.models[model].array(name), expected):
            raise UserError(
                plan.models[model].folder, f"tensor '{name}' differs and is no float",
                f"the same {expected.dtype} values as in {first[0]}",
            )  # fmt: skip
    return expected


def merge_tensor(
    plan: MergePlan, item: TensorPlan, tensor: Blocks, values: Values, put: Put
) -> None:
    """Merge one float tensor block by block into its final type. Raises UserError for NaN."""
    width = DTYPES[item.entry.dtype].itemsize
    columns = item.entry.shape[-1] if item.entry.shape else 1
    strict = plan.recipe.nonfinite == "refuse"
    for start, merged in _copied(tensor) if item.copied else plan.method.blocks(tensor, values):
        if strict:
            refuse_nonfinite(plan, item, tensor)
        rounded, bad = store(ops.to_numpy(merged), item.entry.dtype)
        if bad and strict:
            raise UserError(
                f"{plan.where}: {item.entry.name}",
                f"the merge overflows {DTYPES[item.entry.dtype].name}",
                "smaller weights, or out_dtype: bfloat16",
            )
        put(start * columns * width, rounded)


def _copied(tensor: Blocks) -> Iterator[tuple[int, ops.Array]]:
    return ((block.start, block.experts[0]) for block in tensor)


def refuse_nonfinite(plan: MergePlan, item: TensorPlan, tensor: Blocks) -> None:
    """Raise UserError when a source held NaN or infinity in what was read of it so far."""
    for place, count in tensor.bad.items():
        if count:
            model, name = item.places[place]
            raise UserError(
                plan.models[model].spec(name).file, f"tensor '{name}' holds NaN or infinity",
                "finite numbers, or `nonfinite: count` to merge them all the same",
            )  # fmt: skip


def experts_of(plan: MergePlan) -> list[str]:
    """Labels of the models in the order of per-expert values, which must be one for all tensors.

    Raises UserError for slices of different models.
    """
    orders = [[model for model, _ in item.experts] for item in plan.tensors if not item.copied]
    if any(order != orders[0] for order in orders):
        found = "slices of different models"
        raise UserError(plan.where, found, "the same sources in each slice")
    return orders[0]


class InMemory:
    """Base and experts loaded once as float32; `merge` gives the tensors for any values.

    names: tensors of the result; experts: the labels (models as the recipe names them), in the
    order of per-expert values; num_layers: of the result. The same values give the same bytes as
    `merge_to_folder`.
    """

    def __init__(self, recipe: MergeRecipe, where: str, *, seed: int = 0) -> None:
        self.plan = plan(recipe, where)
        self.seed = seed
        self.names = [item.entry.name for item in self.plan.tensors]
        self.num_layers = num_layers(self.names)
        self.experts = experts_of(self.plan)
        sources = Sources(self.plan)
        self._tensors: dict[str, Blocks] = {}
        for item in self.plan.tensors:
            if item.entry.dtype in MERGED:
                tensor = sources.blocks(item, seed=seed)
                held = [_in_memory(one) for one in [*tensor.experts, tensor.base] if one]
                tensor.bad.update(enumerate(one.bad for one in held))
                if recipe.nonfinite == "refuse":
                    refuse_nonfinite(self.plan, item, tensor)
                count = len(tensor.experts)
                base = held[count] if tensor.base else None
                experts: list[Source] = [*held[:count]]
                self._tensors[item.entry.name] = replace(tensor, base=base, experts=experts)
        sources.close()

    def values(self, name: str) -> Values:
        """The keyword values that the recipe gives to a tensor."""
        item = next(item for item in self.plan.tensors if item.entry.name == name)
        return dict(item.values)

    def merge(self, parameters: Callable[[str], Values] | None = None) -> "dict[str, torch.Tensor]":
        """The merged tensors in their final type.

        parameters: tensor name -> keyword values (a list holds one per expert; `lambda` may be
        written for `lambda_`); what it leaves out keeps the recipe's value.
        """
        method = self.plan.method
        result = {}
        for item in self.plan.tensors:
            name = item.entry.name
            given = parameters(name) if parameters is not None else {}
            named = {
                method.parameters[key].name if key in method.parameters else key: value
                for key, value in given.items()
            }
            result[name] = to_torch(self._merged(item, item.values | named))
        return result

    def changed(self, merged: "dict[str, torch.Tensor]") -> float:
        """Share of the merged parameters that differ from the base (rounded as they are): what a
        file of the difference would have to hold. Raises UserError without a base."""
        total = differing = 0
        for item in self.plan.tensors:
            if item.copied or item.entry.dtype not in MERGED:
                continue
            base = self._tensors[item.entry.name].base
            if base is None:
                raise UserError(self.plan.where, "no base to differ from", "a base_model")
            rows = rows_and_columns(base.shape)
            found = np.empty(rows, dtype=np.float64 if base.wide else np.float32)
            base.rows(0, found)
            own = merged[item.entry.name].float().numpy().reshape(rows)
            stored, _ = store(found, item.entry.dtype)
            differing += int(np.count_nonzero(own != stored.astype(np.float32).reshape(rows)))
            total += own.size
        return differing / total

    def _merged(self, item: TensorPlan, values: Values) -> NDArray[Any]:
        if item.entry.dtype not in MERGED:
            return _same_everywhere(self.plan, item)
        out = np.empty(item.entry.shape, dtype=DTYPES[item.entry.dtype])
        flat = out.reshape(-1).view(np.uint8)

        def put(start: int, array: NDArray[Any]) -> None:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            flat[start : start + data.size] = data

        merge_tensor(self.plan, item, self._tensors[item.entry.name], values, put)
        return out


def _in_memory(source: Source) -> HeldSource:
    """The same rows, read once, as float32 (float64 if they need it)."""
    rows = rows_and_columns(source.shape)
    out = np.empty(rows, dtype=np.float64 if source.wide else np.float32)
    bad = source.rows(0, out)
    return HeldSource(out.reshape(source.shape), bad)
