"""A merge method as the planner sees it: function, parameters, and which models it wants."""

import inspect
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.merge.parameters import Span

DEFAULT = "task_arithmetic"


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
    function: Callable[..., Tensor]
    parameters: dict[str, Parameter]
    """By recipe key."""
    needs_base: bool
    num_experts: tuple[int, int | None]
    base_is_expert: bool
    aliases: dict[str, str]
    """Other recipe keys -> recipe key."""


def load_method(name: str) -> Method:
    """A merge method by name or `package.module:object`. Raises UserError with the nearest name."""
    function = registry.load("merge-method", name)
    facts = vars(sys.modules[function.__module__])
    parameters = [_parameter(name, item) for item in registry.schema(function)]
    return Method(
        name=name,
        function=function,
        parameters={item.key: item for item in parameters},
        needs_base=facts.get("needs_base", True),
        num_experts=facts.get("num_experts", (1, None)),
        base_is_expert=facts.get("base_is_expert", False),
        aliases=facts.get("aliases", {}),
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


def table() -> list[dict[str, str]]:
    """One row per method for the README: name, idea, models, base, parameters."""
    rows = []
    for name in registry.names("merge-method"):
        method = load_method(name)
        least, most = method.num_experts
        rows.append(
            {
                "method": name,
                "idea": registry.summary("merge-method", name).partition(": ")[2],
                "experts": f"{least}" if least == most else f"{least} or more",
                "base": "needed" if method.needs_base else "not used",
                "parameters": ", ".join(method.parameters),
            }
        )
    return rows
