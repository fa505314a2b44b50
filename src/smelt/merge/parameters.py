"""Merge parameters: a method's signature is its schema and its search space.

`Weight`, `Density`... are types whose metadata, a `Span`, says the default, what is legal and what
is worth searching. A recipe sets a parameter to a scalar, a gradient (list over depth) or a list of
`{filter, value}`, with the meaning these have in mergekit.
"""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

Scalar: TypeAlias = bool | int | float | str
EVERY = (None, "*")
"""Filters that match every tensor."""


@dataclass(frozen=True)
class Span:
    """Default, legal range [low, high] and searchable range of a parameter.

    per_expert: one value for each expert, else one for the merge; even: the default is 1/experts;
    boolean: true or false (low 0, high 1); whole: whole numbers only; a default of None: a recipe
    must set it, else the method raises UserError.
    """

    low: float
    high: float
    default: float | bool | None
    search_low: float
    search_high: float
    per_expert: bool = False
    even: bool = False
    boolean: bool = False
    whole: bool = False

    def __str__(self) -> str:
        if self.boolean:
            return "true or false"
        if self.default is None:
            default = "must be set"
        else:
            default = "default 1/experts" if self.even else f"default {self.default:g}"
        scope = "one for each expert" if self.per_expert else "one for the merge"
        kind = "a whole number from " if self.whole else ""
        return (
            f"{scope}, {kind}{self.low:g} to {self.high:g}, {default}, "
            f"searched from {self.search_low:g} to {self.search_high:g}"
        )

    def start(self, num_experts: int) -> float | bool | None:
        """The default for a merge of so many experts."""
        return 1.0 / num_experts if self.even else self.default


Weight = Annotated[
    list[float],
    Span(-100.0, 100.0, 1.0, search_low=0.0, search_high=1.5, per_expert=True, even=True),
]
"""Contribution of each expert; 1/experts unless set."""

Density = Annotated[
    list[float], Span(0.0, 1.0, 1.0, search_low=0.1, search_high=1.0, per_expert=True)
]
"""Share of each task vector that is kept."""

SharedDensity = Annotated[float, Span(0.0, 1.0, 1.0, search_low=0.1, search_high=1.0)]
"""Share of positions that is kept, the same positions for all experts."""

Lambda = Annotated[float, Span(-100.0, 100.0, 1.0, search_low=0.0, search_high=2.0)]
"""Scale of the merged task vector before it is added to the base."""

T = Annotated[float, Span(-10.0, 10.0, 0.5, search_low=0.0, search_high=1.0)]
"""Position between two models, 0 the first and 1 the second; beyond them it extrapolates."""

Normalize = Annotated[bool, Span(0.0, 1.0, False, search_low=0.0, search_high=1.0, boolean=True)]
"""Whether weights are relative to their sum."""

Switch = Annotated[bool, Span(0.0, 1.0, False, search_low=0.0, search_high=1.0, boolean=True)]
"""Something that a method does or does not."""

Gamma = Annotated[
    list[float], Span(0.0, 1.0, 0.01, search_low=0.0, search_high=0.1, per_expert=True)
]
"""Share of each task vector, the largest magnitudes, that is removed."""

Epsilon = Annotated[
    list[float], Span(0.0, 0.5, 0.15, search_low=0.0, search_high=0.3, per_expert=True)
]
"""How far the probability to be kept goes below and above the density."""

Least = Annotated[float, Span(0.0, 1.0, 1e-5, search_low=1e-6, search_high=1e-3)]
"""Magnitude up to which a change of a weight counts as none, in units of the weights."""

Boost = Annotated[float, Span(0.0, 10.0, 0.1, search_low=0.0, search_high=1.0)]
"""Strength of a scale that grows with a ratio."""

Ceiling = Annotated[float, Span(0.0, 10.0, 0.2, search_low=0.0, search_high=1.0)]
"""Largest ratio that counts."""

Distance = Annotated[float | None, Span(0.0, 100.0, None, search_low=1e-6, search_high=1e-2)]
"""Length of a step, in units of the weights. No default: it depends on how far models are apart."""

Tiny = Annotated[float, Span(0.0, 1.0, 1e-8, search_low=1e-9, search_high=1e-6)]
"""Number below which a length counts as 0."""

Steps = Annotated[float, Span(0.0, 1000.0, 10.0, search_low=1.0, search_high=20.0, whole=True)]
"""Most steps of an iteration."""

Scale = Annotated[
    list[float], Span(-100.0, 100.0, 1.0, search_low=0.0, search_high=2.0, per_expert=True)
]
"""Factor on a tensor that is passed through."""


FORMS = "a number, a list of numbers over depth, or a list of {filter, value}"


def check_setting(setting: Any) -> Any:
    """A setting as it is, or ValueError saying what is wrong with it (called by the recipe)."""
    conditions = [setting] if isinstance(setting, dict) else setting
    for item in conditions if isinstance(conditions, list) else []:
        if isinstance(item, dict) and "search" in item:
            raise ValueError("a value; {search: ...} is read by `smelt search` alone, as the whole "
                             "setting in parameters or in models[i].parameters")  # fmt: skip
    if not isinstance(conditions, list):
        return _check_value(conditions)
    if not any(isinstance(item, dict) for item in conditions):
        return _check_value(conditions)
    for item in conditions:
        if not isinstance(item, dict):
            raise ValueError("a list of {filter, value}, or a list of numbers, not both")
        if "value" not in item or not set(item) <= {"filter", "value"}:
            found = ", ".join(map(str, item)) or "no keys"
            raise ValueError(f"{FORMS}, such as [{{filter: mlp, value: 0.5}}, {{value: 1}}], "
                             f"found a mapping of {found}")  # fmt: skip
        if not isinstance(item.get("filter"), str | None):
            raise ValueError("a filter that is a part of tensor names, or '*'")
        _check_value(item["value"])
    return setting


def _check_value(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, bool | int | float | str) for item in items):
        raise ValueError(FORMS)
    if len({isinstance(unquoted(item), bool | str) for item in items}) > 1:
        raise ValueError("a list of numbers, or a list of true and false, not both")
    return value


def unquoted(value: Any) -> Any:
    """A number that a recipe has in quotes, which mergekit reads as one too; else as it is.

    Also of each item of a list, and of the values of {filter, value}.
    """
    if isinstance(value, list):
        return [unquoted(item) for item in value]
    if isinstance(value, dict):
        return {**value, "value": unquoted(value["value"])}
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def conditions_of(setting: Any) -> list[dict[str, Any]]:
    """A setting as a list of {filter, value}; a plain value has the filter None (all tensors)."""
    if isinstance(setting, dict):
        return [setting]
    if isinstance(setting, list) and isinstance(setting[0], dict):
        return setting
    return [{"filter": None, "value": setting}]


def unreached(setting: Any) -> list[dict[str, Any]]:
    """The conditions that stand after one which matches every tensor: no tensor gets to them."""
    conditions = conditions_of(setting)
    for place, condition in enumerate(conditions):
        if condition.get("filter") in EVERY:
            return conditions[place + 1 :]
    return []


def matches(pattern: str | None, tensor_name: str) -> bool:
    """mergekit's rule: a filter is a substring; none and '*' match every tensor."""
    return pattern is None or pattern in EVERY or pattern in tensor_name


def resolve(setting: Any, tensor_name: str, position: float) -> Scalar | None:
    """The value of a setting for one tensor, None when no filter of it matches.

    position: depth from 0 (first layer of the slice, embeddings, head) to 1 (last layer).
    The first matching filter wins; a list of numbers is interpolated, other lists step.

    >>> resolve([0.0, 1.0, 0.0], "model.layers.1.mlp.up_proj.weight", 0.25)
    0.5
    >>> resolve([{"filter": "mlp", "value": 0.3}, {"value": 0.9}], "lm_head.weight", 0.0)
    0.9
    """
    for condition in conditions_of(setting):
        if matches(condition.get("filter"), tensor_name):
            value = condition["value"]
            return gradient(value, position) if isinstance(value, list) else value
    return None


def gradient(values: list[Scalar], position: float) -> Scalar:
    """The value at a position of 0 to 1 on a list of values spread evenly over depth."""
    place = position * (len(values) - 1)
    below = int(place)
    left, right = values[below], values[min(below + 1, len(values) - 1)]
    if isinstance(left, bool | str) or isinstance(right, bool | str):
        return left
    return left + (place - below) * (right - left) if place > below else left
