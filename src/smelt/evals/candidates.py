"""Candidates of a search, merged in memory and scored: what every worker builds for itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.evals.exam import Exam
from smelt.evals.fitness import BenchmarkFitness, exam_weights, fitness_exams, refuse_test_items
from smelt.evals.rows import find_data, first_of_groups
from smelt.merge.apply import InMemory
from smelt.models.fitness import Network, RowFitness, row_weights
from smelt.models.load import network_of, pick_device
from smelt.models.network import NetworkBackend
from smelt.search.fitness import Rows
from smelt.search.prepare import Ready, prepare
from smelt.search.recipe import Fitness

KEPT_BYTES = 1 << 28
"""Of merged candidates that a worker holds."""


@runtime_checkable
class Scores(Protocol):
    """Items with their weights, and what a network does on them now: score and minus length."""

    names: list[str]
    weights: list[float]

    def __call__(self, items: list[int]) -> tuple[list[float], list[float]]: ...


@dataclass(frozen=True)
class Sides:
    """The items of a search: those of its fitness and, where there are any, those of the test that
    is shown beside it; exams of benchmarks, empty for rows."""

    ready: Ready
    fitness: list[Exam]
    test: list[Exam]

    @property
    def inputs(self) -> dict[str, str]:
        """Files that the result depends on."""
        found = dict(self.ready.inputs)
        for kind, exams in (("fitness", self.fitness), ("test", self.test)):
            found |= {f"{kind}.{exam.entry.name}": str(exam.path) for exam in exams}
        return found


def prepare_sides(data: dict[str, Any], where: str) -> Sides:
    """Check a search recipe and read its items. Raises UserError, also for items of the test."""
    ready = prepare(data, where)
    if "size" in ready.section.objectives and not ready.plan.method.needs_base:
        found = f"size, and {ready.plan.method.name}, which changes no base"
        raise UserError(f"{where}: search.objectives", found, "a method with a base_model")
    fitness, place = ready.section.fitness, f"{where}: search.fitness"
    exams, tests = fitness_exams(fitness, place), _tests(fitness, place)
    for exam in exams:
        for test in tests:
            refuse_test_items(exam, test, f"{place}.benchmarks.{exam.entry.name}")
    shown = [replace(test, items=first_of_groups(test.items, fitness.limit)) for test in tests]
    return Sides(ready, exams, shown)


def _tests(fitness: Fitness, place: str) -> list[Exam]:
    """The whole test split of each benchmark that has one in the folder or where `smelt fetch`
    puts it."""
    found: list[Exam] = []
    for name in fitness.benchmarks:
        benchmark = registry.load("benchmark", name)
        for folder in (fitness.folder, None):
            try:
                find_data(name, benchmark, folder, benchmark.test_split, place)
            except UserError:
                continue
            one = {"benchmarks": {name: fitness.benchmarks[name]}, "folder": folder}
            found += fitness_exams(fitness.model_copy(update=one), place, split="test")
            break
    return found


def items_of(sides: Sides) -> tuple[list[str], list[float]]:
    """Name (domain or benchmark) and weight of every item of the fitness; no model is needed."""
    fitness = sides.ready.section.fitness
    if sides.fitness:
        return exam_weights(sides.fitness, fitness.benchmarks)
    rows = sides.ready.fitness_rows
    names = [name for name, part in rows.items() for _ in part]
    return names, row_weights(rows, fitness.domains, fitness.scored_by == "likelihood")


class Candidates:
    """Base, experts and a network in memory; a genome in, the values of items out."""

    def __init__(self, sides: Sides, where: str, device: str) -> None:
        self.sides, self.where = sides, where
        ready = sides.ready
        self.space = ready.spaces[-1]
        self.memory = InMemory(ready.recipe, where)
        # Of the result's config: a tied donor may become untied by its experts.
        model = network_of(
            self.memory.plan.config,
            self.memory.names,
            pick_device(device),
            getattr(torch, ready.section.fitness.dtype),
        )
        self.network = Network(model)
        self._plain = {name: self.memory.values(name) for name in self.memory.names}
        donor = self.memory.plan.models[self.memory.plan.donor].folder
        # Its weights change between calls, so no answer of it is kept: it needs no identity.
        backend = NetworkBackend(
            model, donor, identity="", batch_size=ready.section.fitness.batch_size
        )
        self.fitness = self._scores(backend, sides.fitness, ready.fitness_rows)
        # Asked when the search has ended, read now: what cannot be asked is to be told before.
        self.test: Scores | None = None
        if sides.test or ready.test_rows:
            self.test = self._scores(backend, sides.test, ready.test_rows)
        # A race comes back to its survivors: what was merged once is copied, not merged again.
        self._merged: dict[tuple[float, ...], dict[str, Tensor]] = {}

    def _scores(self, backend: NetworkBackend, exams: list[Exam], rows: Rows) -> Scores:
        """Items before the network as it is at the time."""
        fitness = self.sides.ready.section.fitness
        if exams:
            return BenchmarkFitness(
                exams, backend, fitness.benchmarks, self.where,
                max_new_tokens=fitness.max_new_tokens,
            )  # fmt: skip
        return RowFitness(
            self.network.model,
            backend.prompts.tokenizer,
            rows,
            fitness.domains,
            "likelihood" if fitness.scored_by == "likelihood" else "exact",
        )

    def become(self, genome: list[float]) -> float:
        """Merge a candidate into the network; the share of its parameters that the merge changed
        from the base (0 unless `size` is an objective)."""
        merged = self._merged.pop(tuple(genome), None)
        if merged is None:
            memory, space = self.memory, self.space
            merged = memory.merge(
                lambda name: space.parameters(genome, name, self._plain[name], memory.experts)
            )
        self.network.take(merged)
        self._keep(genome, merged)
        wanted = "size" in self.sides.ready.section.objectives
        return self.memory.changed(merged) if wanted else 0.0

    def _keep(self, genome: list[float], merged: dict[str, Tensor]) -> None:
        """The latest candidates, as many as fit `KEPT_BYTES`."""
        size = sum(tensor.nbytes for tensor in merged.values())
        while self._merged and (len(self._merged) + 1) * size > KEPT_BYTES:
            del self._merged[next(iter(self._merged))]
        if size <= KEPT_BYTES:
            self._merged[tuple(genome)] = merged

    def __call__(self, genome: list[float], items: list[int]) -> list[list[float]]:
        """[objective][item], more is better. Raises UserError for a candidate that cannot be."""
        changed = self.become(genome)
        scores, lengths = self.fitness(items)
        columns = {"score": scores, "length": lengths, "size": [-changed] * len(items)}
        return [columns[name] for name in self.sides.ready.section.objectives]


def build(data: dict[str, Any], where: str, device: str) -> Callable[..., list[list[float]]]:
    """What a worker measures with: everything loaded from the recipe's files."""
    return Candidates(prepare_sides(data, where), where, device)
