"""Getting the data of a benchmark: from the hub by `datasets`, or made from a seed."""

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from smelt.core import digest, progress
from smelt.core.errors import UserError, missing_package, nearest
from smelt.evals.benchmark import Benchmark, Hub, Row, sources
from smelt.evals.rows import item_of, short_name


def fetch(
    name: str, benchmark: Benchmark, out: Path, *, split: str | None, seed: int, where: str
) -> list[str]:
    """Write `OUT/NAME/SPLIT.jsonl.gz` for every split (or the one given) and `source.json`.

    A file appears whole or not at all; the same data give the same bytes. Returns a line for each
    file, which says so when it has not as many rows as the benchmark. Raises UserError for a
    benchmark or split that cannot be fetched, and when the hub cannot be reached.
    """
    short = short_name(name)
    hubs = sources(benchmark)
    made = benchmark.make(seed) if benchmark.make is not None else {}
    known = sorted({*hubs, *made})
    if not known:
        raise UserError(f"{where}: {short}", "neither on the hub nor made here", "its own data",
                        f"data: FILE in the recipe; see smelt show benchmark {short}")  # fmt: skip
    if split is not None and split not in known:
        raise UserError(f"{where}: {short}", f"no split '{split}'", nearest(split, known))
    folder = out / short
    folder.mkdir(parents=True, exist_ok=True)
    record = _record(folder, short, benchmark)
    lines = []
    for one in [split] if split is not None else known:
        source: dict[str, Any]
        if one in made:
            rows, source = iter(made[one]), {"seed": seed}
        else:
            rows, source = _hub_rows(hubs[one], one, f"{where}: {short}")
        path = folder / f"{one}.jsonl.gz"
        wanted = benchmark.splits.get(one)
        count, num_items = _write(path, rows, f"{short}/{one}", benchmark, wanted or 1)
        source |= {"rows": count, "items": num_items, "expected": wanted}
        source |= {"sha256": digest.file(path)}
        record["splits"][one] = source
        _replace(folder / "source.json", json.dumps(record, indent=2, sort_keys=True) + "\n")
        differs = wanted is not None and num_items != wanted
        note = f", but the benchmark has {wanted}: scores are not comparable" if differs else ""
        lines.append(f"{path}: {num_items} items{note}")
    return lines


def _record(folder: Path, name: str, benchmark: Benchmark) -> dict[str, Any]:
    """What source.json says already, if it speaks of this version."""
    fresh = {"benchmark": name, "version": benchmark.version, "licence": benchmark.licence,
             "source": benchmark.source, "splits": {}}  # fmt: skip
    try:
        old = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        return fresh | {"splits": dict(old["splits"])}
    except (OSError, ValueError, KeyError, TypeError):
        return fresh


def _hub_rows(hub: Hub, split: str, where: str) -> tuple[Iterator[Row], dict[str, Any]]:
    """The rows of a split, converted, and where they come from (a local folder may stand in for a
    repository, as `datasets` allows; its digest is then its revision)."""
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ModuleNotFoundError as error:
        raise missing_package(error) or error from error
    local = Path(hub.repository).is_dir()
    revision = digest.path(Path(hub.repository)) if local else _revision(hub.repository, where)
    theirs = hub.splits[split]
    loaded = []
    for config in hub.configs or (None,):
        what = f"{hub.repository} ({config})" if config else hub.repository
        try:
            found = datasets.load_dataset(
                hub.repository, config, split=theirs, revision=None if local else revision
            )
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            raise _unreachable(f"{what}, split {theirs}", error, where) from error
        for column, feature in found.features.items():
            if isinstance(feature, datasets.Image):  # nobody looks at it: no Pillow is needed
                found = found.cast_column(column, datasets.Image(decode=False))
        loaded.append((config, found))

    def converted() -> Iterator[Row]:
        for config, found in loaded:
            for row in found:
                row = dict(row) if config is None else {**row, "config": config}
                try:
                    ours = hub.convert(row)
                except (LookupError, TypeError, ValueError, AttributeError) as error:
                    text = f"rows with the keys {sorted(row)} ({type(error).__name__}: {error})"
                    raise UserError(f"{where}: {hub.repository}", text,
                                    "the columns that smelt knows") from error  # fmt: skip
                if ours is not None:
                    yield ours

    facts = {"repository": hub.repository, "split": theirs, "revision": revision}
    return converted(), facts | {"configs": list(hub.configs)}


def _revision(repository: str, where: str) -> str:
    """The commit that a hub repository has now."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # The library that speaks HTTP differs between versions of the hub's; its errors have one root.
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        return str(HfApi().dataset_info(repository).sha)
    except (OSError, ValueError, http_error) as error:
        raise _unreachable(repository, error, where) from error


def _unreachable(what: str, error: BaseException, where: str) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"{where}: {what}",
        f"cannot be read ({reason[:200]})",
        "the hub within reach, or a local mirror (HF_ENDPOINT)",
        "put SPLIT.jsonl.gz of the benchmark into a folder and name it by `data:`",
    )


def _write(
    path: Path, rows: Iterable[Row], label: str, benchmark: Benchmark, expected: int
) -> tuple[int, int]:
    """Rows as JSON lines, compressed without name and time so that the bytes are the same; the
    number of rows, and of those that are items (or prompts, which have no question)."""
    count = num_items = 0
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as raw:
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)
            with packed:
                for row in progress.track(rows, f"fetch {label}", expected):
                    row = {"id": f"{label}/{count}", **row}
                    place = f"{label}: {row['id']}"
                    num_items += "question" not in row or item_of(benchmark, row, place) is not None
                    try:
                        line = json.dumps(row, ensure_ascii=False, sort_keys=True)
                    except TypeError as error:
                        raise UserError(place, f"no row ({error})", "text and numbers") from error
                    packed.write(line.encode("utf-8", "surrogatepass") + b"\n")
                    count += 1
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count, num_items


def _replace(path: Path, text: str) -> None:
    """As `core.run.write_atomic`, but two fetches at once into one folder, which no lock forbids,
    would share that one's partial file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
