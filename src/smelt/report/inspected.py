"""The measures of `smelt inspect` as a reader sees them: names, texts, order, formats."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def percent(value: float | None) -> str:
    """A share.

    >>> percent(0.0312), percent(0.5), percent(None)
    ('3.1%', '50%', '–')
    """
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if value < 0.0995 else f"{100 * value:.0f}%"


def signed(value: float | None) -> str:
    """A cosine.

    >>> signed(-0.00001), signed(0.25), signed(None)
    ('+0.00', '+0.25', '–')
    """
    return "–" if value is None else f"{round(value, 2) + 0.0:+.2f}"


def plain(value: float | None) -> str:
    """A number with three digits.

    >>> plain(1.0), plain(487.79), plain(0.012345)
    ('1.00', '488', '0.0123')
    """
    if value is None:
        return "–"
    return f"{value:.3g}" if value >= 99.5 or value < 0.1 else f"{value:.2f}"


@dataclass(frozen=True)
class Measure:
    """A number of each part of a network. centre: where a heat map turns from orange to blue."""

    key: str
    title: str
    meaning: str
    show: Callable[[float | None], str]
    centre: float | None = None
    scale: float | None = None
    """What has full colour; None: the largest value shown."""
    least: float = 0.0
    """What has full colour at least, so that noise stays pale."""


MOVED = Measure(
    "moved", "moved", "norm of the task vector, as a share of the norm of the base", percent
)
CHANGED = Measure(
    "changed", "changed", "share of elements that differ from the base", percent, scale=1.0
)
NORM = Measure("norm", "norm", "norm of the weights", plain)
TASK_COSINE = Measure(
    "cosine", "cosine", "of the task vectors: +1 the same direction, 0 independent, -1 opposite",
    signed, 0.0, least=0.1,
)  # fmt: skip
WEIGHT_COSINE = Measure(
    "cosine",
    "cosine",
    "of the weights: near 1 with a common base, near 0 without",
    signed,
    0.0,
    1.0,
)
RATIO = Measure(
    "norm_ratio", "norm ratio", "norm of the first over norm of the second", plain, 1.0, least=0.25
)
SAME_SIGN = Measure(
    "same_sign", "same sign", "of the elements that both changed, the share changed in the same"
    " direction: 50% is chance", percent, 0.5, least=0.05,
)  # fmt: skip
OVERLAP = Measure(
    "overlap", "overlap", "elements that both changed, as a share of those that at least one"
    " changed", percent, scale=1.0,
)  # fmt: skip
DISTANCE = Measure("distance", "distance", "norm of the difference over the mean norm", plain)
DIFFERING = Measure(
    "differing", "differing", "share of elements that are not equal", percent, scale=1.0
)


def of_models(record: dict[str, Any]) -> list[Measure]:
    """The measures of each model."""
    return [MOVED, CHANGED] if record["base"] is not None else [NORM]


def of_pairs(record: dict[str, Any]) -> list[Measure]:
    """The measures of each pair of models."""
    if record["base"] is not None:
        return [TASK_COSINE, RATIO, SAME_SIGN, OVERLAP]
    return [WEIGHT_COSINE, RATIO, DISTANCE, DIFFERING]


def part(cell: dict[str, Any]) -> str:
    """The name of a part of a network.

    >>> part({"block": "mlp", "layer": 3}), part({"block": "mlp", "depth": "late"})
    ('layer 3 mlp', 'late mlp')
    >>> part({"block": "norm", "depth": None}), part({"block": "head", "layer": None})
    ('final norm', 'head')
    """
    where = cell.get("depth") if "depth" in cell else cell["layer"]
    if where is None:
        return "final norm" if cell["block"] == "norm" else str(cell["block"])
    return f"{where} {cell['block']}" if "depth" in cell else f"layer {where} {cell['block']}"


def family_lines(record: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Each family as a sentence, with its evidence."""
    lines = []
    for family in record["ancestry"]["families"]:
        names = ", ".join(family["models"])
        if len(family["models"]) == 1:
            text = f"{names} is related to no other of these models"
        elif family["base"] is None:
            text = f"{names} share a base; which of them it is cannot be told"
        else:
            text = (
                f"{names} share a base; {family['base']} looks like it"
                f" (confidence: {family['confidence']})"
            )
        lines.append((text, list(family["evidence"])))
    return lines


def compared_line(record: dict[str, Any]) -> str:
    """One sentence about what was compared."""
    total = record["total"]
    if total is None:
        return "No two of these models can be compared tensor by tensor."
    against = f" against the base {record['base']}" if record["base"] is not None else ""
    return (
        f"{total['tensors']} tensors with {total['elements']:,} elements in each of"
        f" {', '.join(record['compared'])}{against}"
    )
