"""The record of `smelt inspect` as tables in the terminal."""

from typing import TYPE_CHECKING, Any

from smelt.report import inspected

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PART_WIDTH = 18


def print_record(record: dict[str, Any], console: "Console", *, layers: bool = False) -> None:
    """Print facts, ancestry and numbers; layers: a row for each layer instead of each third."""
    _print_models(record, console)
    for name, why in record["refused"].items():
        console.print(f"{name} cannot be merged with {record['reference']}: {why}")
    for line in record["differences"]:
        console.print(f"difference: {line}")
    for name, why in record["left_out"].items():
        console.print(f"not compared: {name}: {why}")
    console.print()
    for text, evidence in inspected.family_lines(record):
        console.print(text)
        for line in evidence:
            console.print(f"  - {line}")
    for line in record["ancestry"]["notes"]:
        console.print(line)
    console.print()
    console.print(inspected.compared_line(record))
    if record["total"] is None:
        return
    whole = {"layer": None, "block": "all"} | record["total"]
    rows = [*record["layers" if layers else "depths"], whole]
    _print_by_model(record, rows, console)
    _print_by_pair(record, rows, console)


def _print_models(record: dict[str, Any], console: "Console") -> None:
    table = _table(
        ["model", "kind", "layers", "parameters", "types", "tokens", "head"], whole=False
    )
    for name, facts in record["facts"].items():
        shown = f"{name} (base)" if name == record["base"] else name
        table.add_row(
            shown, facts["architecture"], str(facts["layers"]), f"{facts['parameters']:,}",
            facts["dtype"], str(facts["vocabulary"] or "–"), facts["head"],
        )  # fmt: skip
    console.print(table)


def _print_by_model(record: dict[str, Any], rows: list[dict[str, Any]], console: "Console") -> None:
    measures, names = inspected.of_models(record), record["compared"]
    words = [*names, *(one.title for one in measures)]
    column = 3 + max(map(len, words))
    at_once = max(1, (console.width - _PART_WIDTH) // (column * len(measures)))
    for first in range(0, len(names), at_once):
        places = range(first, min(first + at_once, len(names)))
        heads = [f"{names[place]}\n{one.title}" for place in places for one in measures]
        table = _table(["part", *heads])
        for cell in rows:
            values = [one.show(cell[one.key][place]) for place in places for one in measures]
            table.add_row(inspected.part(cell), *values)
        console.print(table)
    _print_meanings(measures, console)


def _print_by_pair(record: dict[str, Any], rows: list[dict[str, Any]], console: "Console") -> None:
    from rich.columns import Columns

    measures, pairs = inspected.of_pairs(record), record["pairs"]
    tables = []
    for place, pair in enumerate(pairs):
        table = _table(["part", *(one.title.replace(" ", "\n") for one in measures)])
        table.title = " and ".join(pair)
        for cell in rows:
            table.add_row(
                inspected.part(cell), *(one.show(cell[one.key][place]) for one in measures)
            )
        tables.append(table)
    if tables:
        console.print(Columns(tables))
        _print_meanings(measures, console)


def _print_meanings(measures: list[inspected.Measure], console: "Console") -> None:
    for one in measures:
        console.print(f"{one.title}: {one.meaning}")
    console.print()


def _table(heads: list[str], *, whole: bool = True) -> "Table":
    """A plain table; whole: cells on one line each, else folded where the terminal is narrow."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(
            head,
            justify="right" if place else "left",
            vertical="bottom",
            no_wrap=whole,
            overflow="ellipsis" if whole else "fold",
        )
    return table
