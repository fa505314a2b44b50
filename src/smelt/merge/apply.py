"""Carry out a merge plan: streamed to a folder, or again and again in memory for a search."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smelt.checkpoint import folder as files
from smelt.checkpoint.layout import num_layers
from smelt.checkpoint.writer import Writer
from smelt.core import progress
from smelt.core.errors import UserError
from smelt.merge.plan import MergePlan, plan
from smelt.merge.recipe import MergeRecipe
from smelt.merge.tensors import MERGED_DTYPES, TensorPlan

Values = dict[str, Any]


def read_source(plan: MergePlan, source: tuple[str, str]) -> Tensor:
    """A source tensor, as float32 unless it is no float. NaN and infinity are refused."""
    model, name = source
    tensor = plan.models[model].read(name)
    if tensor.dtype not in MERGED_DTYPES:
        return tensor
    if not bool(torch.isfinite(tensor).all()):
        file = plan.models[model].spec(name).file
        raise UserError(file, f"tensor '{name}' holds NaN or infinity", "finite numbers")
    return tensor.to(torch.float32)


def merge_tensor(
    plan: MergePlan,
    item: TensorPlan,
    base: Tensor | None,
    experts: list[Tensor],
    values: Values,
) -> Tensor:
    """One tensor of the result in its final type; integers must be equal in all models."""
    if experts[0].dtype not in MERGED_DTYPES:
        for (model, name), tensor in zip(item.experts, experts, strict=True):
            if not torch.equal(tensor, experts[0]):
                raise UserError(
                    plan.models[model].folder, f"tensor '{name}' differs and is no float",
                    f"the same {experts[0].dtype} values as in {item.experts[0][0]}",
                )  # fmt: skip
        return experts[0]
    merged = plan.method.function(base, experts, **values).to(item.entry.dtype)
    if not bool(torch.isfinite(merged).all()):
        raise UserError(
            f"{plan.where}: {item.entry.name}", f"the merge overflows {item.entry.dtype}",
            "smaller weights, or out_dtype: bfloat16",
        )  # fmt: skip
    return merged


def merge_to_folder(plan: MergePlan, folder: Path, *, resume: bool = False) -> None:
    """Merge tensor by tensor into a checkpoint folder, with its config and tokenizer.

    Memory holds the sources of one tensor. resume: keep the complete shards of an interrupted
    call with the same plan; else a folder that holds weights is refused.
    """
    items = {item.entry.name: item for item in plan.tensors}
    entries = [item.entry for item in plan.tensors]
    with Writer(folder, entries, max_shard_bytes=plan.max_shard_bytes, resume=resume) as writer:
        missing = writer.missing()
        for name in progress.track(missing, f"merge ({plan.method.name})", len(missing)):
            item = items[name]
            base = read_source(plan, item.base) if item.base else None
            experts = [read_source(plan, source) for source in item.experts]
            writer.write(name, merge_tensor(plan, item, base, experts, item.values))
    files.write_config(folder, plan.config, plan.dtype)
    files.copy_side_files(
        plan.models[plan.donor].folder,
        folder,
        tokenizer=plan.models[plan.tokenizer].folder,
        chat_template=plan.recipe.chat_template,
    )


class InMemory:
    """Base and experts loaded once as float32; `merge` gives the tensors for any values.

    names: tensors of the result; experts: the labels (models as the recipe names them), in the
    order of per-expert values; base: tensor by name, empty when the method needs no base;
    num_layers: of the result. The same values give the same bytes as `merge_to_folder`.
    """

    def __init__(self, recipe: MergeRecipe, where: str) -> None:
        self.plan = plan(recipe, where)
        self.names = [item.entry.name for item in self.plan.tensors]
        self.num_layers = num_layers(self.names)
        orders = [[model for model, _ in item.experts] for item in self.plan.tensors]
        self.experts = orders[0]
        if any(order != self.experts for order in orders):
            raise UserError(where, "slices of different models", "the same sources in each slice")
        loaded: dict[tuple[str, str], Tensor] = {}

        def load(source: tuple[str, str]) -> Tensor:
            if source not in loaded:
                loaded[source] = read_source(self.plan, source)
            return loaded[source]

        self.base = {
            item.entry.name: load(item.base) for item in self.plan.tensors if item.base is not None
        }
        self._experts = {
            item.entry.name: [load(source) for source in item.experts] for item in self.plan.tensors
        }

    def values(self, name: str) -> Values:
        """The keyword values that the recipe gives to a tensor."""
        item = next(item for item in self.plan.tensors if item.entry.name == name)
        return dict(item.values)

    def merge(self, parameters: Callable[[str], Values] | None = None) -> dict[str, Tensor]:
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
            values = item.values | named
            experts, base = self._experts[name], self.base.get(name)
            result[name] = merge_tensor(self.plan, item, base, experts, values)
        return result
