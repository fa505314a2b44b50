"""Measure a model on data, tensor by tensor, and write the folder that merge methods read.

Memory is bounded by passes: tensors whose sums do not fit into the room given are measured in
further passes over the same examples. The result does not depend on how they are cut, except that
each pass is one file.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from smelt.checkpoint.reader import Checkpoint
from smelt.checkpoint.statistics import DESCRIPTION, Description, Kind, Measured, weights_sha256
from smelt.core import digest, progress
from smelt.core.errors import UserError
from smelt.core.run import write_atomic
from smelt.models.examples import Examples
from smelt.models.fisher import Labels, fisher
from smelt.models.gram import gram, linear_layers, shared_inputs
from smelt.models.load import empty_model, read_config

SUM_BYTES, ARRAY_BYTES = 8, 4  # sums are float64, files float32

Axis = Literal[0, 1] | None


@dataclass(frozen=True)
class Options:
    """How to measure; the fields of the recipe of the same names."""

    kind: Kind
    labels: Labels = "sampled"
    draws: int = 1
    memory_bytes: int = 4_000_000_000
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """One array to measure: the tensors that it serves (the first names it) and its size."""

    tensors: dict[str, Axis]
    """Name in the checkpoint -> axis of the input (gram) or None (fisher)."""
    num_bytes: int
    """Of the sum, while it is measured."""
    subject: Any
    """The Linear whose input is watched, or the parameter."""

    @property
    def name(self) -> str:
        return next(iter(self.tensors))


def measure(
    model: PreTrainedModel,
    checkpoint: Checkpoint,
    examples: Examples,
    data: Path,
    folder: Path,
    options: Options,
) -> Description:
    """Measure and write a statistics folder: arrays, then its description. Raises UserError.

    model: the network of the checkpoint, in float32 and evaluation mode, on its device.
    """
    jobs, left_out = plan(model, checkpoint, examples, options.kind)
    passes = list(_passes(jobs, options.memory_bytes))
    tensors: dict[str, Measured] = {}
    files = []
    run = _gram if options.kind == "gram" else _fisher
    # Killed while it writes, safetensors leaves a file of a random name: all of it happens here.
    work = folder / "unfinished"
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    with progress.Bar(f"statistics {options.kind}", examples.num_tokens * len(passes)) as bar:
        for number, part in enumerate(passes, start=1):
            results = run(model, part, examples, bar, options)
            arrays: dict[str, Tensor] = {}
            for job, (array, num_tokens) in zip(part, results, strict=True):
                if not num_tokens:
                    left_out |= dict.fromkeys(job.tensors, "its layer was never called")
                    continue
                arrays[job.name] = _finite(array, job.name, checkpoint.folder)
                for name, axis in job.tensors.items():
                    shape = list(checkpoint.spec(name).shape)
                    tensors[name] = Measured(
                        shape=shape, stored_as=job.name, tokens=num_tokens, input_axis=axis
                    )
            files.append(_file_name(number, len(passes)))
            save_file(arrays, work / files[-1])
            (work / files[-1]).chmod(0o644)  # it is written 0600, which no other user can read
            (work / files[-1]).rename(folder / files[-1])
    work.rmdir()
    if not tensors:
        raise UserError(checkpoint.folder, f"no layer that has a {options.kind}", "linear layers")
    sampled = options.kind == "fisher" and options.labels == "sampled"
    done = Description(
        kind=options.kind,
        weights_sha256=weights_sha256(checkpoint),
        data_sha256=digest.file(data),
        rows=examples.num_rows,
        examples=len(examples.items),
        tokens=examples.num_tokens if options.kind == "gram" else examples.num_targets,
        options={
            "labels": options.labels if options.kind == "fisher" else None,
            "draws": options.draws if sampled else None,
            "seed": options.seed,
        },
        skipped=examples.skipped,
        tensors=tensors,
        left_out=left_out,
        files=files,
    )
    text = json.dumps(done.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)
    write_atomic(folder / DESCRIPTION, text + "\n")
    return done


def largest_bytes(folder: Path, kind: Kind) -> int:
    """Size of the arrays of a model, from its configuration alone: no less than what is written,
    because layers that share an input are only known when the network runs."""
    model = empty_model(read_config(folder), str(folder))
    if kind == "gram":
        return sum(ARRAY_BYTES * layer.width**2 for layer in linear_layers(model))
    return sum(ARRAY_BYTES * parameter.numel() for parameter in model.parameters())


def plan(
    model: PreTrainedModel, checkpoint: Checkpoint, examples: Examples, kind: Kind
) -> tuple[list[Job], dict[str, str]]:
    """What to measure, in the order of names, and what is left out, with the reason.

    Raises UserError for a network whose parameters are not tensors of the checkpoint as it stands.
    """
    names, left_out = _stored_names(model, checkpoint)
    jobs: list[Job] = []
    if kind == "gram":
        left_out = {}
        layers = linear_layers(model)
        used = {id(layer.weight) for layer in layers}
        for module in model.modules():
            if isinstance(module, nn.Linear) and id(module.weight) not in used:
                left_out |= dict.fromkeys(names[id(module.weight)], "shared by embedding and head")
        for group in shared_inputs(model, layers, examples.items[0]):
            axes: dict[str, Axis] = {
                name: layer.input_axis for layer in group for name in names[id(layer.weight)]
            }
            size = SUM_BYTES * group[0].width ** 2
            jobs.append(Job(dict(sorted(axes.items())), size, group[0]))
    else:
        for parameter in model.parameters():
            served: dict[str, Axis] = dict.fromkeys(sorted(names[id(parameter)]))
            jobs.append(Job(served, SUM_BYTES * parameter.numel(), parameter))
    return sorted(jobs, key=lambda job: job.name), left_out


def _stored_names(
    model: PreTrainedModel, checkpoint: Checkpoint
) -> tuple[dict[int, list[str]], dict[str, str]]:
    """Names in the checkpoint of every parameter, by id, and tensors that are none of them."""
    prefix = f"{model.base_model_prefix}."
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[int, list[str]] = {}
    rest: dict[str, str] = {}
    for name in checkpoint.names():
        keys = (name, prefix + name, name.removeprefix(prefix))  # base models lack the prefix
        parameter = next((parameters[key] for key in keys if key in parameters), None)
        if parameter is None:
            rest[name] = "no parameter of the network"
        elif tuple(parameter.shape) == checkpoint.spec(name).shape:
            found.setdefault(id(parameter), []).append(name)
    for key, parameter in parameters.items():
        if id(parameter) in found:
            continue
        same = [name for name in rest if _equal(checkpoint, name, parameter)]
        if len(same) != 1:
            raise UserError(
                checkpoint.folder,
                f"the network's '{key}' is not stored as such a tensor",
                "an architecture that is loaded tensor by tensor, as it is stored",
            )
        found[id(parameter)] = same
        del rest[same[0]]
    return found, rest


def _equal(checkpoint: Checkpoint, name: str, parameter: nn.Parameter) -> bool:
    """Whether a stored tensor became this parameter under another name (embed_out of GPT-NeoX)."""
    if checkpoint.spec(name).shape != tuple(parameter.shape):
        return False
    return torch.equal(checkpoint.read(name).float(), parameter.detach().float().cpu())


def _passes(jobs: list[Job], room: int) -> Iterator[list[Job]]:
    """Consecutive jobs whose sums fit into the room together (a larger one goes alone)."""
    part: list[Job] = []
    for job in jobs:
        if part and sum(item.num_bytes for item in part) + job.num_bytes > room:
            yield part
            part = []
        part.append(job)
    if part:
        yield part


# Array (float32, on the CPU) and token positions of each job; its sum is freed as it is taken.
Results = Iterator[tuple[Tensor, int]]


def _gram(
    model: PreTrainedModel, jobs: list[Job], examples: Examples, bar: progress.Bar, _: Options
) -> Results:
    sums = gram(model, [job.subject for job in jobs], examples.items, bar)
    sums.reverse()
    while sums:
        done = sums.pop()
        yield done.matrix(), done.num_tokens


def _fisher(
    model: PreTrainedModel, jobs: list[Job], examples: Examples, bar: progress.Bar, options: Options
) -> Results:
    means = fisher(
        model,
        [job.subject for job in jobs],
        examples.items,
        bar,
        labels=options.labels,
        draws=options.draws,
        seed=options.seed,
    )
    means.reverse()
    while means:
        yield means.pop().float().cpu(), examples.num_targets


def _finite(array: Tensor, name: str, folder: Path) -> Tensor:
    if not bool(torch.isfinite(array).all()):
        raise UserError(folder, f"statistics of '{name}' are no finite numbers", "a sound model")
    return array.contiguous()


def _file_name(number: int, count: int) -> str:
    part = "" if count == 1 else f"-{number:05}-of-{count:05}"
    return f"statistics{part}.safetensors"
