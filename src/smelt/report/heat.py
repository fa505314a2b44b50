"""The coefficients that a search found, as a table of coloured cells."""

from typing import Any

from smelt.report.records import Coefficients

COMPONENTS = ("attention", "mlp", "other")
MAX_NUMBERS = 12  # columns in which numbers are written out; beyond, colours with a hint each


def colour(value: float, largest: float) -> str:
    """A background for a cell: blue above 0, orange below, as strong as the value is large."""
    strength = 0.0 if largest == 0 else min(1.0, abs(value) / largest)
    red, green, blue = (37, 99, 235) if value >= 0 else (234, 88, 12)
    return f"rgba({red},{green},{blue},{0.06 + 0.74 * strength:.2f})"


def _split(label: str) -> tuple[str, str]:
    """(layers, component) of a column, e.g. `layer 0-3 mlp`."""
    layers, _, last = label.rpartition(" ")
    return (layers, last) if layers and last in COMPONENTS else (label, "")


def table(found: Coefficients) -> dict[str, Any] | None:
    """Rows: a parameter of a model (for each component where they are told apart); columns: layers.

    None for a record in which they do not fit together.
    """
    fits = len(found.values) == len(found.rows) and all(
        len(row) == len(found.columns) for row in found.values
    )
    if not fits or not found.rows:
        return None
    largest = max((abs(value) for row in found.values for value in row), default=0.0)
    places = [_split(label) for label in found.columns]
    if any(part for _, part in places):  # what has no component is none of the others
        places = [(layers, part or "other") for layers, part in places]
    heads = list(dict.fromkeys(layers for layers, _ in places))
    parts = list(dict.fromkeys(part for _, part in places))
    body = []
    for name, values in zip(found.rows, found.values, strict=True):
        known = dict(zip(places, values, strict=True))
        for part in parts:
            cells = [known.get((layers, part)) for layers in heads]
            if any(cell is not None for cell in cells):
                label = f"{name}, {part}" if part else name
                pairs = zip(heads, cells, strict=True)
                body.append((label, [_cell(label, *pair, largest) for pair in pairs]))
    return {
        "heads": [head.removeprefix("layer ") for head in heads],
        "body": body,
        "numbers": len(heads) <= MAX_NUMBERS,
        "scale": [
            (f"{s * largest:.2g}", colour(s * largest, largest)) for s in (-1, -0.5, 0, 0.5, 1)
        ]
        if largest
        else [],
    }


def _cell(label: str, layers: str, value: float | None, largest: float) -> dict[str, str]:
    if value is None:
        return {"text": "", "colour": "transparent", "hint": ""}
    hint = f"{label}, {layers}: {value:.4f}"
    return {"text": f"{value:.3f}", "colour": colour(value, largest), "hint": hint}
