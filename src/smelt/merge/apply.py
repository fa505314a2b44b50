"""Carry out a merge plan: streamed to a folder, or again and again in memory for a search."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smelt.checkpoint import folder as files
from smelt.checkpoint.layout import num_layers
from smelt.checkpoint.reader import DTYPES, to_torch
from smelt.checkpoint.writer import Entry, Writer
from smelt.core import progress
from smelt.core.errors import UserError
from smelt.merge import ops
from smelt.merge.blocks import Blocks
from smelt.merge.plan import MergePlan, plan
from smelt.merge.recipe import MergeRecipe
from smelt.merge.sources import ArraySource, Files, FileSource, store
from smelt.merge.tensors import MERGED, Place, TensorPlan

if TYPE_CHECKING:
    import torch

Values = dict[str, Any]
Put = Callable[[int, NDArray[Any]], None]
"""Takes a byte offset within a tensor and the array that belongs there."""


def num_threads() -> int:
    """Threads of a merge: OMP_NUM_THREADS if set, else the cores that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0))


def merge_to_folder(
    plan: MergePlan,
    folder: Path,
    *,
    identities: dict[str, str] | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    resume: bool = False,
) -> None:
    """Merge tensor by tensor into a checkpoint folder, with its config and tokenizer.

    Memory holds a few blocks of rows per thread. identities: model -> hash of its content, which
    random methods draw by. resume: keep the complete shards of an interrupted call with the same
    plan; else a folder that holds weights is refused. The same plan and seed give the same bytes
    for any number of threads and any size of shards.
    """
    items = {item.entry.name: item for item in plan.tensors}
    opened = Files()
    known = identities or {}

    def work(entry: Entry) -> None:
        item = items[entry.name]
        sources = _sources(plan, item, opened)
        if entry.dtype not in MERGED:
            writer.write(entry, _same_everywhere(plan, item))
            return
        names = [known.get(model, model) for model, _ in item.experts]
        tensor = Blocks(entry.name, sources[-1], sources[:-1], names, seed=seed, device=device,
                        whole=plan.method.whole)  # fmt: skip
        _announce(plan, item, opened)
        merge_tensor(plan, item, tensor, item.values, lambda at, a: writer.place(entry.name, at, a))

    shards = {"max_shard_bytes": plan.max_shard_bytes, "resume": resume}
    entries = [item.entry for item in plan.tensors]
    try:
        with (
            Writer(folder, entries, **shards) as writer,
            ThreadPoolExecutor(threads or num_threads(), "merge") as pool,
        ):
            for shard in writer.missing():
                done = pool.map(work, shard)
                try:
                    for _ in progress.track(done, f"merge ({plan.method.name})", len(shard)):
                        pass
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
                writer.end()
    finally:
        opened.close()
    files.write_config(folder, plan.config, plan.dtype)
    files.copy_side_files(
        plan.models[plan.donor].folder,
        folder,
        tokenizer=plan.models[plan.tokenizer].folder,
        chat_template=plan.recipe.chat_template,
    )


def _sources(plan: MergePlan, item: TensorPlan, opened: Files) -> list[Any]:
    def source(place: Place | None) -> FileSource | None:
        return FileSource(plan.models[place[0]].spec(place[1]), opened) if place else None

    return [source(place) for place in [*item.experts, item.base]]


def _announce(plan: MergePlan, item: TensorPlan, opened: Files) -> None:
    for model, name in filter(None, [*item.experts, item.base]):
        spec = plan.models[model].spec(name)
        opened.announce(spec.file, spec.start, spec.num_bytes)


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
    for start, merged in plan.method.blocks(tensor, values):
        refuse_nonfinite(plan, item, tensor)
        rounded, bad = store(ops.to_numpy(merged), item.entry.dtype)
        if bad:
            raise UserError(
                f"{plan.where}: {item.entry.name}",
                f"the merge overflows {DTYPES[item.entry.dtype].name}",
                "smaller weights, or out_dtype: bfloat16",
            )
        put(start * columns * width, rounded)


def refuse_nonfinite(plan: MergePlan, item: TensorPlan, tensor: Blocks) -> None:
    """Raise UserError when a source held NaN or infinity in what was read of it so far."""
    for place, count in tensor.bad.items():
        if count:
            model, name = (item.base or item.experts[0]) if place < 0 else item.experts[place]
            file = plan.models[model].spec(name).file
            raise UserError(file, f"tensor '{name}' holds NaN or infinity", "finite numbers")


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
        orders = [[model for model, _ in item.experts] for item in self.plan.tensors]
        self.experts = orders[0]
        if any(order != self.experts for order in orders):
            raise UserError(where, "slices of different models", "the same sources in each slice")
        self._loaded: dict[Place, ArraySource] = {}
        for item in self.plan.tensors:
            for place in filter(None, [*item.experts, item.base]):
                if place not in self._loaded:
                    self._loaded[place] = ArraySource(self.plan.models[place[0]].array(place[1]))

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

    def _merged(self, item: TensorPlan, values: Values) -> NDArray[Any]:
        if item.entry.dtype not in MERGED:
            return _same_everywhere(self.plan, item)
        out = np.empty(item.entry.shape, dtype=DTYPES[item.entry.dtype])
        flat = out.reshape(-1).view(np.uint8)

        def put(start: int, array: NDArray[Any]) -> None:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            flat[start : start + data.size] = data

        base = self._loaded[item.base] if item.base else None
        tensor = Blocks(item.entry.name, base, [self._loaded[one] for one in item.experts],
                        self.experts, seed=self.seed, whole=self.plan.method.whole)  # fmt: skip
        merge_tensor(self.plan, item, tensor, values, put)
        return out
