"""Genome and recipe: a number in [0, 1] for every gene and group, and what it means."""

import copy
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from smelt.core.errors import UserError
from smelt.merge.recipe import model_name
from smelt.search.genes import Gene
from smelt.search.groups import Group, Mix, filters, group_tensors, mixes


@dataclass(frozen=True)
class Space:
    """The search space. A genome is a list of numbers in [0, 1], gene by gene, group by group.

    data: the plain recipe around the genes; smooth: numbers run linearly over depth between the
    middles of groups (choices, which have nothing between them, keep to their group's).
    """

    data: dict[str, Any]
    genes: list[Gene]
    groups: list[Group]
    smooth: bool = False

    @property
    def size(self) -> int:
        """Length of a genome."""
        return len(self.genes) * len(self.groups)

    @cached_property
    def mixes(self) -> dict[str, Mix]:
        """Of every tensor that is merged."""
        return mixes(self.groups, smooth=self.smooth)

    @cached_property
    def _steps(self) -> dict[str, Mix]:
        return mixes(self.groups, smooth=False)

    @cached_property
    def _names(self) -> list[str]:
        return [model_name(entry["model"]) for entry in self.data["models"]]

    def unit(self, genome: list[float], gene: int, mix: Mix) -> float:
        """The number that a genome gives to a gene for the tensors of a mix."""
        own = gene * len(self.groups)
        if self.genes[gene].choices:
            return genome[own + mix.group]
        left = genome[own + mix.left]
        return left + mix.share * (genome[own + mix.right] - left) if mix.share else left

    def parameters(
        self, genome: list[float], tensor: str, plain: dict[str, Any], experts: list[str]
    ) -> dict[str, Any]:
        """Keyword values of the merge method for one tensor.

        plain: the values that the recipe gives it without any gene (none for a tensor that is
        copied, which gets none); experts: names of the models in the order of per-expert values
        (which leaves out, or moves, the base).
        """
        if not plain:
            return {}
        mix = self.mixes[tensor]
        found = dict(plain)
        for index, gene in enumerate(self.genes):
            value = gene.value(self.unit(genome, index, mix))
            if gene.model is None:
                found[gene.name] = value
            else:
                if found[gene.name] is plain[gene.name]:
                    found[gene.name] = list(plain[gene.name])
                found[gene.name][self.place(gene, experts)] = value
        return found

    def place(self, gene: Gene, experts: list[str]) -> int:
        """Where the value of a gene stands among per-expert values."""
        assert gene.model is not None
        return experts.index(self._names[gene.model])

    @cached_property
    def _filters(self) -> tuple[list[tuple[str, Mix]], list[tuple[str, Mix]]]:
        return filters(self.mixes), filters(self._steps)

    def recipe(self, genome: list[float]) -> dict[str, Any]:
        """A plain merge recipe with the values of a genome: filters by layer and component."""
        data = copy.deepcopy(self.data)
        for index, gene in enumerate(self.genes):
            rules = self._filters[1 if gene.choices else 0]
            values = [gene.value(self.unit(genome, index, mix)) for _, mix in rules]
            setting: Any = values[0]
            if len(rules) > 1:
                setting = [
                    {"filter": text, "value": value}
                    for (text, _), value in zip(rules, values, strict=True)
                ]
            owner = data if gene.model is None else data["models"][gene.model]
            owner["parameters"][gene.key] = setting
        return data

    def coefficients(self, genome: list[float]) -> dict[str, Any]:
        """Table of a genome: rows (genes), columns (groups), values as numbers [row][column]."""
        count = len(self.groups)
        rows = [
            str(gene) if gene.model is None else f"{gene} of {Path(self._names[gene.model]).name}"
            for gene in self.genes
        ]
        values = [
            [round(gene.number(one), 12) for one in genome[index * count : (index + 1) * count]]
            for index, gene in enumerate(self.genes)
        ]
        return {"rows": rows, "columns": [group.label for group in self.groups], "values": values}

    def fit(self, units: Callable[[int, str], float]) -> list[float]:
        """The genome whose values are nearest to given numbers in [0, 1], by (gene, tensor).

        Exact where the space can hold them: a group takes the mean of its tensors (of choices the
        most frequent), a smooth space the least squares over all of them.
        """
        genome: list[float] = []
        for index, gene in enumerate(self.genes):
            found = {tensor: units(index, tensor) for tensor in sorted(self.mixes)}
            own = [_typical([found[name] for name in sorted(g.tensors)], gene) for g in self.groups]
            if self.smooth and not gene.choices:
                own = self._least_squares(found, own)
            genome += own
        return genome

    def _least_squares(self, found: dict[str, float], typical: list[float]) -> list[float]:
        """Numbers at the groups' middles; `typical` where a middle's neighbours do not matter."""
        shares = np.zeros((len(found), len(self.groups)))
        for row, tensor in enumerate(found):
            mix = self.mixes[tensor]
            shares[row, mix.left] += 1 - mix.share
            shares[row, mix.right] += mix.share
        wanted = np.array(list(found.values()))
        solved = np.linalg.lstsq(shares, wanted, rcond=None)[0].clip(0.0, 1.0)
        own = []
        for index, value in enumerate(solved):
            reached = shares[:, index] > 0
            alone = (shares[reached, index] == 1).all() or np.ptp(wanted[reached]) == 0
            own.append(typical[index] if alone else float(value))
        return own


def _typical(units: list[float], gene: Gene) -> float:
    if len(set(units)) == 1:
        return units[0]
    if not gene.choices:
        return sum(units) / len(units)
    chosen = Counter(gene.choice(unit) for unit in units).most_common(1)[0][0]
    return next(unit for unit in units if gene.choice(unit) == chosen)


def space_of(
    plain: dict[str, Any],
    genes: list[Gene],
    names: list[str],
    layer_groups: int | str,
    where: str,
    *,
    components: bool = False,
    smooth: bool = False,
) -> Space:
    """The space of a plain recipe (`without_marks`) over the tensors that it merges.

    where: of the search section. Raises UserError for more groups than layers.
    """
    groups = group_tensors(names, layer_groups, where, components=components)
    return Space(plain, genes, groups, smooth)


def carry(genome: list[float], coarse: Space, fine: Space) -> list[float]:
    """The genome of `fine` that says what a genome of `coarse` says, tensor by tensor.

    Exact wherever the finer groups lie within the coarser ones; the two are of one recipe.
    """
    if coarse.genes != fine.genes or coarse.mixes.keys() != fine.mixes.keys():
        raise ValueError("spaces of different recipes")

    def units(gene: int, tensor: str) -> float:
        return coarse.unit(genome, gene, coarse.mixes[tensor])

    return fine.fit(units)


def nested(coarse: Space, fine: Space) -> bool:
    """Whether the finer space can hold whatever a genome of the coarser one says."""
    draw = random.Random(0)
    genome = [draw.random() for _ in range(coarse.size)]
    carried = carry(genome, coarse, fine)
    return all(
        abs(coarse.unit(genome, gene, mix) - fine.unit(carried, gene, fine.mixes[tensor])) < 1e-9
        for gene in range(len(coarse.genes))
        for tensor, mix in coarse.mixes.items()
    )


def stages(
    plain: dict[str, Any],
    genes: list[Gene],
    names: list[str],
    layer_groups: list[int | str],
    where: str,
    *,
    components: bool = False,
    smooth: bool = False,
) -> list[Space]:
    """The spaces of a search from coarse to fine. Raises UserError when one cannot hold what the
    one before it found, for then it would start elsewhere."""
    spaces = [
        space_of(plain, genes, names, one, where, components=components, smooth=smooth)
        for one in layer_groups
    ]
    pairs = zip(itertools.pairwise(layer_groups), itertools.pairwise(spaces), strict=True)
    for (before, after), (coarse, fine) in pairs:
        if not nested(coarse, fine):
            expected = "a multiple of the number before it, or all"
            if smooth:
                expected = (
                    "1, one more number, then all: smooth values between other middles differ"
                )
            raise UserError(f"{where}.layer_groups", f"{after} after {before}", expected)
    return spaces


def at_values(
    space: Space, values: dict[str, dict[str, Any]], experts: list[str], where: str
) -> list[float]:
    """The genome of parameter values by tensor, by Python name (clipped to the genes' ranges).

    experts: as for `Space.parameters`. Raises UserError for a choice that is not searched.
    """

    def units(index: int, tensor: str) -> float:
        gene = space.genes[index]
        value = values[tensor][gene.name]
        if gene.model is not None:
            value = value[space.place(gene, experts)]
        if gene.choices and value not in gene.choices:
            raise UserError(where, f"{gene.key} is {value!r}", f"one of {list(gene.choices)}")
        return gene.unit(value)

    return space.fit(units)
