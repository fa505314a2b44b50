"""The record of `smelt inspect` as one HTML page with heat maps that needs no network."""

import math
from typing import Any

from smelt.core.errors import needs
from smelt.report import inspected
from smelt.report.inspected import Measure
from smelt.report.page import TEMPLATES

MARK = '<meta name="generator" content="smelt inspect">'
BLOCKS = ("attention", "mlp", "norm", "other")
_MAX_STRENGTH = 0.6  # of a background under text


def require() -> None:
    """Raise the UserError for a missing package before any work."""
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise needs("report", "jinja2") from error


def render(record: dict[str, Any], *, command: str) -> str:
    """The page; the same bytes for the same record. command: shown at its head."""
    require()
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,  # names of models are anybody's text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("inspect.html.j2").render(
        record=record,
        command=command,
        mark=markupsafe.Markup(MARK),
        compared=inspected.compared_line(record),
        families=inspected.family_lines(record),
        cosines=_cosines(record),
        models=_cards(record, inspected.of_models(record), [[name] for name in record["compared"]]),
        pairs=_cards(record, inspected.of_pairs(record), record["pairs"]),
        measures=[*inspected.of_models(record), *inspected.of_pairs(record)],
    )


def strength(measure: Measure, value: float | None, scale: float) -> float:
    """How strong the colour of a cell is, -1 (orange) to 1 (blue); 0 for none.

    Ratios count by their logarithm, so that 2 and 1/2 are equally strong.
    """
    if value is None or scale <= 0:
        return 0.0
    part = _gap(measure, value) / scale
    return max(-1.0, min(1.0, part))


def _gap(measure: Measure, value: float) -> float:
    if measure.centre is None:
        return value
    if measure.centre == 1.0:
        return math.log2(value) if value > 0 else -10.0
    return value - measure.centre


def scale_of(measure: Measure, cells: list[dict[str, Any]]) -> float:
    """What has full colour in all maps of a measure: its own scale, else the largest number.

    Norms are few and move in their own way: what lies outside the scale has full colour too.
    """
    if measure.scale is not None:
        return measure.scale
    cells = [cell for cell in cells if cell["block"] in ("attention", "mlp")] or cells
    values = [
        abs(_gap(measure, one)) for cell in cells for one in cell[measure.key] if one is not None
    ]
    return max([measure.least, *values])


def colour(part: float) -> str:
    """A background: blue above 0, orange below, as strong as the number is large."""
    red, green, blue = (37, 99, 235) if part >= 0 else (234, 88, 12)
    return f"rgba({red},{green},{blue},{_MAX_STRENGTH * abs(part):.2f})"


def _ends(measure: Measure, scale: float) -> tuple[str, str]:
    """What the palest and the strongest colours mean, as text."""
    if measure.centre is None:
        return measure.show(0.0), measure.show(scale)
    if measure.centre == 1.0:
        return measure.show(2.0**-scale), measure.show(2.0**scale)
    return measure.show(measure.centre - scale), measure.show(measure.centre + scale)


def _cards(
    record: dict[str, Any], measures: list[Measure], groups: list[list[str]]
) -> list[dict[str, Any]]:
    """One card for each model or pair: numbers by depth, heat maps and numbers by layer."""
    if record["total"] is None:
        return []
    scales = {one.key: scale_of(one, record["layers"]) for one in measures}

    def cell(one: dict[str, Any], measure: Measure, place: int) -> dict[str, str]:
        value = one[measure.key][place]
        part = strength(measure, value, scales[measure.key])
        text = measure.show(value)
        return {"text": text, "colour": colour(part), "title": f"{inspected.part(one)}: {text}"}

    cards = []
    for place, names in enumerate(groups):
        whole = {"layer": None, "block": "all"} | record["total"]
        table = [
            (inspected.part(row), [cell(row, one, place) for one in measures])
            for row in [*record["depths"], whole]
        ]
        detail = [
            (inspected.part(row), [cell(row, one, place) for one in measures])
            for row in record["layers"]
        ]
        maps = []
        for measure in measures:
            rows = [
                (block, [cell(one, measure, place) if one else None for one in line])
                for block, line in _by_block(record)
            ]
            low, high = _ends(measure, scales[measure.key])
            maps.append(
                {
                    "title": measure.title, "rows": rows, "low": low, "high": high,
                    "diverging": measure.centre is not None,
                }
            )  # fmt: skip
        cards.append(
            {
                "names": names,
                "heads": [one.title for one in measures],
                "table": table,
                "detail": detail,
                "maps": maps if record["num_layers"] else [],
            }
        )
    return cards


def _by_block(record: dict[str, Any]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Per block its cells from the first layer to the last (None where a layer has none)."""
    table = {(one["layer"], one["block"]): one for one in record["layers"]}
    count = record["num_layers"]
    lines = [(block, [table.get((layer, block)) for layer in range(count)]) for block in BLOCKS]
    return [(block, line) for block, line in lines if any(line)]


def _cosines(record: dict[str, Any]) -> dict[str, Any]:
    """The table of cosines between all models, with colours."""
    found = record["ancestry"]
    rows = [
        (
            name,
            [
                {
                    "text": "–" if value is None else f"{value:+.3f}",
                    "colour": colour(0.0 if value is None else max(-1.0, min(1.0, value))),
                }
                for value in values
            ],
        )
        for name, values in zip(found["names"], found["cosines"], strict=True)
    ]
    return {"heads": found["names"], "rows": rows, "matrices": found["matrices"]}
