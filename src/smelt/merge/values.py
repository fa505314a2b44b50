"""The value of every parameter for every tensor, from the settings of a recipe."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from smelt.core.errors import UserError, nearest
from smelt.merge.method import Method, Parameter
from smelt.merge.parameters import conditions_of, matches, resolve, unquoted, unreached

# Accepted and without any numeric effect, in mergekit as here.
NO_EFFECT = ("int8_mask",)


@dataclass(frozen=True)
class Level:
    """Settings written at one place of a recipe, by recipe key; `where` is that place."""

    where: str
    settings: dict[str, Any]


def check_level(
    where: str, given: dict[str, Any] | None, method: Method, *, one_model: bool
) -> tuple[Level, list[str]]:
    """Checked settings of one place, and warnings. Raises UserError for keys nobody reads."""
    settings: dict[str, Any] = {}
    warnings = []
    known = list(method.parameters) + list(method.aliases)
    for key, setting in (given or {}).items():
        if key in (*NO_EFFECT, *method.no_effect):
            warnings.append(f"{where}.{key} has no effect on the numbers")
            continue
        see = f"smelt show merge-method {method.name}"
        if key not in known:
            expected = f"what {method.name} takes: {nearest(key, known)}"
            raise UserError(f"{where}.{key}", "unknown key", expected, see)
        parameter = method.parameters[method.aliases.get(key, key)]
        if parameter.key in settings:
            raise UserError(f"{where}.{key}", f"the same as '{parameter.key}'", "one of them")
        if one_model and not parameter.per_expert:
            expected = f"'{key}' at the top level: it is one value for all models"
            raise UserError(f"{where}.{key}", "set for one model", expected, see)
        for value in _values_in(setting):
            check_value(f"{where}.{key}", value, parameter)
        if parameter.span is not None and not parameter.span.boolean:
            setting = unquoted(setting)  # a list of text would step, one of numbers interpolates
        if late := unreached(setting):
            named = ", ".join(f"'{one.get('filter') or '*'}'" for one in late)
            warnings.append(
                f"{where}.{key}: the filter {named} has no effect, a condition before it matches "
                "every tensor and the first that matches wins"
            )
        settings[parameter.key] = setting
    return Level(where, settings), warnings


def _values_in(setting: Any) -> Iterator[Any]:
    for condition in conditions_of(setting):
        value = condition["value"]
        yield from value if isinstance(value, list) else [value]


def check_value(where: str, value: Any, parameter: Parameter) -> Any:
    """One value in the type that the method takes. Raises UserError."""
    if parameter.span is None:
        if value not in parameter.choices:
            raise UserError(where, f"found {value!r}", nearest(str(value), list(parameter.choices)))
        return value
    if parameter.span.boolean:
        if isinstance(value, str) or value not in (0, 1):
            raise UserError(where, f"found {value!r}", "true or false")
        return bool(value)
    value = unquoted(value)
    low, high, whole = parameter.span.low, parameter.span.high, parameter.span.whole
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool | str) or not low <= value <= high or (whole and value % 1):
        raise UserError(where, f"found {value!r}", f"{kind} from {low:g} to {high:g}")
    return float(value)


def values_for(
    method: Method,
    common: list[Level],
    own: list[Level],
    tensor: str,
    own_tensors: list[str],
    position: float,
) -> dict[str, Any]:
    """Keyword values of a method for one tensor.

    common: levels for all models, the most specific first; own: one level per expert;
    own_tensors: the name of the tensor in each expert, which its own filters see.
    """
    result: dict[str, Any] = {}
    for parameter in method.parameters.values():
        if not parameter.per_expert:
            result[parameter.name] = _find(parameter, common, tensor, position, len(own))
            continue
        result[parameter.name] = [
            _find(parameter, [level, *common], name, position, len(own))
            for level, name in zip(own, own_tensors, strict=True)
        ]
    return result


def _find(
    parameter: Parameter, levels: list[Level], tensor: str, position: float, num_experts: int
) -> Any:
    for level in levels:
        if parameter.key in level.settings:
            value = resolve(level.settings[parameter.key], tensor, position)
            if parameter.span is not None and parameter.span.whole and isinstance(value, float):
                value = round(value)  # between the whole numbers of a list over depth
            if value is not None:
                return check_value(f"{level.where}.{parameter.key}", value, parameter)
    return parameter.start(num_experts)


def check_filters(levels: list[tuple[Level, set[str]]]) -> None:
    """Refuse a filter that matches none of the tensors which its level is about."""
    for level, tensors in levels:
        for key, setting in level.settings.items():
            for condition in conditions_of(setting):
                pattern = condition.get("filter")
                if not any(matches(pattern, name) for name in tensors):
                    parts = sorted({part for name in tensors for part in name.split(".")})
                    words = [part for part in parts if not part.isdigit()]
                    raise UserError(
                        f"{level.where}.{key}", f"the filter '{pattern}' matches no tensor",
                        f"a part of a tensor name, such as {nearest(str(pattern), words)}",
                        "mend the filter; then smelt check RECIPE shows the values by layer",
                    )  # fmt: skip
