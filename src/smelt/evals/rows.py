"""Finding and reading the data of a benchmark: a file of rows, a folder, or what was fetched."""

import os
from collections.abc import Iterator
from pathlib import Path

from smelt.core.digest import cache_folder
from smelt.core.errors import UserError, nearest
from smelt.data.document import parse_row, read_lines
from smelt.evals.benchmark import Benchmark, Item, Row, sources

SUFFIXES = (".jsonl", ".jsonl.gz")
# Solved examples kept of each subject, unless more are asked for: a prompt shows the first of them.
POOL = 64


def data_folder() -> Path:
    """Where `smelt fetch` puts data unless told: $SMELT_DATA, or smelt/data in the user's cache."""
    if given := os.environ.get("SMELT_DATA"):
        return Path(given).expanduser()
    return cache_folder() / "data"


def short_name(name: str) -> str:
    """The folder of a benchmark's data: its name, without the package of one of the user's."""
    return name.rpartition(":")[2]


def split_file(folder: Path, split: str) -> Path | None:
    """`SPLIT.jsonl` or `SPLIT.jsonl.gz` of a folder, if it is there."""
    paths = (folder / (split + suffix) for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def split_of(path: Path) -> str:
    """The split that a data file holds, by its name."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def find_data(
    name: str, benchmark: Benchmark, data: str | None, split: str | None, where: str
) -> Path:
    """The file of a benchmark's split (the test split unless given).

    data: a file, a folder with SPLIT.jsonl(.gz), a folder that holds NAME/SPLIT.jsonl(.gz), or None
    for the folder of `smelt fetch`. Raises UserError, with the command that gets the data.
    """
    wanted, short = split or benchmark.test_split, short_name(name)
    place = data_folder() if data is None else Path(data).expanduser()
    if place.is_file():
        if split is not None and split_of(place) != split:
            raise UserError(f"{where}: split", f"'{split}', and {place} is a file", "one of both")
        return place
    for folder in (place, place / short) if data is not None else (place / short,):
        if (found := split_file(folder, wanted)) is not None:
            return found
    if benchmark.splits and wanted not in benchmark.splits:
        raise UserError(
            f"{where}: split", f"'{wanted}' of {name}", nearest(wanted, sorted(benchmark.splits))
        )
    if place.suffix == ".gz" or place.suffix == ".jsonl":
        raise UserError(where, f"no such file: {place}", "the benchmark's data file")
    what = f"no data of {short} ({wanted}.jsonl or {wanted}.jsonl.gz) in {place}"
    raise UserError(where, what, "a file of rows", _next_step(short, benchmark, data, wanted))


def _next_step(short: str, benchmark: Benchmark, data: str | None, split: str) -> str:
    if benchmark.hub is None and benchmark.make is None:
        return "smelt data RECIPE OUT makes such rows"
    known = sources(benchmark)
    if known and split not in known:
        return f"see docs/benchmarks.md: {split} is not on the hub"
    return f"smelt fetch {short}" + (f" --out {data}" if data is not None else "")


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Place (`FILE:LINE`) and row of every line. Raises UserError for a line that is no object."""
    for number, line in read_lines(path):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = parse_row(line)
        except ValueError as error:
            raise UserError(place, f"no row ({error})", "a JSON object a line") from error
        row.setdefault("id", str(number))
        yield place, row


def item_of(benchmark: Benchmark, row: Row, place: str) -> Item | None:
    """The item of a row (None: the row is left out). Raises UserError, which begins with `place`,
    for a row that is damaged."""
    try:
        item = benchmark.item(row)
    except KeyError as error:
        raise UserError(place, f"a row without {error}", "a row of the benchmark",
                        "docs/benchmarks.md") from error  # fmt: skip
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(place, str(error), "a row of the benchmark") from error
    if item is not None:
        group = item.group
        if not group or group.startswith(".") or "/" in group or "\0" in group:
            raise UserError(place, f"the group {group!r}", "a name without '/'")
    return item


def read_items(
    benchmark: Benchmark, path: Path, limit: int | None, only: list[str], where: str
) -> list[Item]:
    """The items of a file, in its order: at most `limit` of each group, of groups or subjects in
    `only` (all when empty). Raises UserError, naming file and line, also when nothing is left."""
    seen: dict[str, str] = {}
    known: set[str] = set()
    items = []
    for place, row in _rows(path):
        item = item_of(benchmark, row, place)
        if item is None:
            continue
        if item.id in seen:
            raise UserError(place, f"the id {item.id!r} again, as in {seen[item.id]}", "ids once")
        seen[item.id] = place
        known |= {item.group, item.subject}
        if only and item.group not in only and item.subject not in only:
            continue
        items.append(item)
    known.discard("")
    if missing := [name for name in only if name not in known]:
        raise UserError(f"{where}: only", f"'{missing[0]}', not in {path}",
                        nearest(missing[0], sorted(known)))  # fmt: skip
    if not items:
        raise UserError(where, f"{path} has no items", "rows of the benchmark")
    return items if limit is None else first_of_groups(items, limit)


def first_of_groups(items: list[Item], limit: int) -> list[Item]:
    """At most `limit` items of each group, in their order: one of each of its subjects in turn, so
    that a part of MMLU is not its first subject alone."""
    turns: dict[tuple[str, str], int] = {}
    ranked: dict[str, list[tuple[int, int]]] = {}
    for place, item in enumerate(items):
        turn = turns[item.group, item.subject] = turns.get((item.group, item.subject), -1) + 1
        ranked.setdefault(item.group, []).append((turn, place))
    kept = sorted(place for part in ranked.values() for _, place in sorted(part)[:limit])
    return [items[place] for place in kept]


def find_shots(name: str, benchmark: Benchmark, path: Path) -> Path | None:
    """The file of solved examples: beside the data file `path`, or where `smelt fetch` puts it."""
    if benchmark.shots_split is None:
        return None
    folders = (path.parent, data_folder() / short_name(name))
    files = (split_file(folder, benchmark.shots_split) for folder in folders)
    return next((found for found in files if found is not None), None)


def read_shots(
    name: str, benchmark: Benchmark, path: Path, where: str, *, most: int = POOL
) -> list[Item]:
    """Solved examples: the first `most` of each subject in the file of `find_shots`; none without.

    A row with a `text` instead of a question is a prompt of several examples (BBH):
    description, then `Q: ...`, `A: ...`, with blank lines between.
    """
    file = find_shots(name, benchmark, path)
    if file is None:
        return []
    pool: list[Item] = []
    counts: dict[str, int] = {}
    for place, row in _rows(file):
        for part in _solved(row) if "text" in row and "question" not in row else [row]:
            item = item_of(benchmark, part, place)
            if item is None:
                continue
            counts[item.subject] = counts.get(item.subject, 0) + 1
            if counts[item.subject] <= most:
                pool.append(item)
    return pool


def _solved(row: Row) -> list[Row]:
    """The solved examples of a prompt text as rows."""
    found = []
    for number, part in enumerate(("\n\n" + str(row["text"])).split("\n\nQ: ")[1:], start=1):
        question, _, solution = part.strip().partition("\nA: ")
        stated = solution.rpartition("answer is ")[2].strip().removesuffix(".")
        found.append({
            "id": f"{row['id']}/{number}", "subject": row.get("subject", ""),
            "question": question, "solution": solution, "answer": stated,
        })  # fmt: skip
    return found
