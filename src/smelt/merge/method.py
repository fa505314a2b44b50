"""A merge method as the planner sees it: functions, parameters, and which models it wants."""

import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smelt.checkpoint import layout
from smelt.core import registry
from smelt.core.errors import UserError
from smelt.merge import ops
from smelt.merge.blocks import BLOCK_ELEMENTS, Blocks
from smelt.merge.parameters import Span
from smelt.merge.sources import ArraySource, rows_and_columns

DEFAULT = "task_arithmetic"
INJECTED = ("statistics", "random", "extra", "name")
"""Keywords of a method that the engine gives it: what its `statistics` found in a first pass over
the tensor, the random numbers of the block, its part of the experts' statistics files, and the name
of the tensor."""


@dataclass(frozen=True)
class Parameter:
    """One keyword of a method: its span, or its choices when it is a word."""

    name: str
    span: Span | None
    choices: tuple[str, ...] = ()
    default: Any = None
    """The method's own default; None means the span's."""

    @property
    def per_expert(self) -> bool:
        return self.span is not None and self.span.per_expert

    @property
    def key(self) -> str:
        """The name in recipes: `lambda` for `lambda_`."""
        return self.name.rstrip("_")

    def start(self, num_experts: int) -> Any:
        """The default for a merge of so many experts (one value, also when it is per expert)."""
        if self.default is not None or self.span is None:
            return self.default
        return self.span.start(num_experts)


@dataclass(frozen=True)
class Method:
    """A merge method; `num_experts` is (least, most), most None for any number."""

    name: str
    function: Callable[..., Any]
    statistics: Callable[..., Any] | None
    """The passes over a whole tensor that come before the function's, if it needs any."""
    parameters: dict[str, Parameter]
    """By recipe key."""
    needs_base: bool | str
    """Whether experts come with a base; "optional": with one if the recipe names one."""
    num_experts: tuple[int, int | None]
    base_is_expert: bool
    whole: bool
    """The function gets whole tensors in their true shape, not blocks of rows."""
    extra: str | None
    """The kind of statistics file that every expert must bring."""
    random: bool
    aliases: dict[str, str]
    """Other recipe keys -> recipe key."""
    no_effect: tuple[str, ...]
    """Keys that mergekit takes for this method and that change no number, in mergekit as here."""

    def defaults(self, count: int) -> dict[str, Any]:
        """Keyword values for so many experts, by Python name."""
        return {
            one.name: [one.start(count)] * count if one.per_expert else one.start(count)
            for one in self.parameters.values()
        }

    def wants_whole(self, name: str) -> bool:
        """Whether a tensor of that name is given as a whole. The largest ones never are: no method
        decomposes embeddings or heads."""
        return self.whole and layout.block_of(name) not in ("embedding", "head")

    def blocks(self, tensor: Blocks, values: dict[str, Any]) -> Iterator[tuple[int, ops.Array]]:
        """First row and merged rows of each block of a tensor, by keyword values of the method."""
        given = {**values, "name": tensor.name}
        if self.statistics is not None:
            given["statistics"] = self.statistics(tensor, **_taken(self.statistics, given))
        for block in tensor:
            given["random"], given["extra"] = block.random, block.extra
            yield (
                block.start,
                self.function(block.base, block.experts, **_taken(self.function, given)),
            )


def merge_arrays(
    method: Method,
    base: NDArray[Any] | None,
    experts: Sequence[NDArray[Any]],
    values: dict[str, Any] | None = None,
    *,
    extras: Sequence[NDArray[Any] | None] = (),
    identities: Sequence[str] = (),
    name: str = "",
    seed: int = 0,
    device: str = "cpu",
    block_elements: int = BLOCK_ELEMENTS,
) -> NDArray[Any]:
    """Merge one tensor in memory by the same code as a checkpoint; float32 or float64 as the input.

    values: keyword values by the method's Python names (one for all experts where it takes one per
    expert); what is left out is the default. Shape as the base's or the experts'.
    """
    count = len(experts)
    given = {**method.defaults(count), **(values or {})}
    for parameter in method.parameters.values():
        if parameter.per_expert and not isinstance(given[parameter.name], list | tuple):
            given[parameter.name] = [given[parameter.name]] * count
    tensor = Blocks(
        name,
        None if base is None or not method.needs_base else ArraySource(base),
        [ArraySource(one) for one in experts],
        list(identities) or [str(place) for place in range(count)],
        seed=seed,
        whole=method.wants_whole(name),
        device=device,
        extras=[None if one is None else ArraySource(one) for one in extras or [None] * count],
        block_elements=block_elements,
    )
    out = np.empty(tensor.shape, dtype=tensor.dtype)
    flat = out.reshape(rows_and_columns(out.shape))
    for start, merged in method.blocks(tensor, given):
        rows = ops.to_numpy(merged).reshape(-1, flat.shape[1])
        flat[start : start + len(rows)] = rows
    return out


def _taken(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in _keywords(function) if name in given}


@cache
def _keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    found = inspect.signature(function).parameters.values()
    return tuple(one.name for one in found if one.kind is inspect.Parameter.KEYWORD_ONLY)


def load_method(name: str) -> Method:
    """A merge method by name or `package.module:object`. Raises UserError with the nearest name."""
    function = registry.load("merge-method", name)
    facts = vars(sys.modules[function.__module__])
    statistics = facts.get("statistics")
    listed = [*registry.schema(function), *(registry.schema(statistics) if statistics else [])]
    parameters = [_parameter(name, one) for one in listed if one.name not in INJECTED]
    return Method(
        name=name,
        function=function,
        statistics=statistics,
        parameters={item.key: item for item in parameters},
        needs_base=facts.get("needs_base", True),
        num_experts=facts.get("num_experts", (1, None)),
        base_is_expert=facts.get("base_is_expert", False),
        whole=facts.get("whole", False),
        extra=facts.get("extra"),
        random=any(one.name == "random" for one in listed),
        aliases=facts.get("aliases", {}),
        no_effect=facts.get("no_effect", ()),
    )


def _parameter(method: str, item: registry.Parameter) -> Parameter:
    default = None if item.default is inspect.Parameter.empty else item.default
    arguments = typing.get_args(item.annotation)
    if typing.get_origin(item.annotation) is typing.Literal:
        return Parameter(item.name, None, arguments, default)
    span = next((one for one in arguments if isinstance(one, Span)), None)
    if span is None:
        expected = "a type of smelt.merge.parameters, or Literal[...]"
        raise UserError(f"merge-method '{method}'", f"{item.name} has no Span", expected)
    return Parameter(item.name, span, (), default)
