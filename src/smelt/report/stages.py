"""The stages that a report covers: every result below the folders it is given."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from smelt.core.errors import UserError
from smelt.core.run import KEY, RECORD, read_record
from smelt.report.records import (
    OF_VERB,
    Cost,
    PipelineRecord,
    Record,
    SearchRecord,
    parse,
    read_json,
)

PARTIAL = ".partial"
JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Stage:
    """One result folder: its name (the same for every seed), record and cost."""

    name: str
    folder: Path
    seed: int
    record: Record
    cost: Cost | None

    def uses(self, other: "Stage") -> bool:
        """Whether the other stage's result, or a file inside it, is an input of this one."""
        for entry in self.record.inputs.values():
            if entry.key == other.record.key:
                return True
            path = os.path.normpath(self.folder.parent / entry.path)
            if entry.path and (path + os.sep).startswith(str(other.folder) + os.sep):
                return True
        return False


AnyRecord = TypeVar("AnyRecord", bound=Record)


def _is_running(folder: Path) -> bool:
    """Is this the folder that a search works in, or was killed in? It has a journal, no record."""
    return (folder / JOURNAL).is_file() and not (folder / RECORD).is_file()


def _working(folder: Path) -> Path:
    """The folder itself, or before it is published the one in which a search works on it."""
    partial = folder.with_name(folder.name + PARTIAL)
    return partial if not folder.is_dir() and _is_running(partial) else folder


def _read(folder: Path, name: str, seed: int | None = None) -> Stage:
    if _is_running(folder):
        mark = folder / KEY
        key = mark.read_text(encoding="utf-8") if mark.is_file() else ""
        record = SearchRecord(verb="search", key=key, running=True)
        return Stage(name.removesuffix(PARTIAL), folder, seed or 0, record, None)
    data = read_record(folder)
    cls = OF_VERB.get(str(data.get("verb")), Record)
    found = parse(cls, data, folder / RECORD)
    cost = read_json(Cost, folder / "cost.json")
    return Stage(name, folder, found.seed if seed is None else seed, found, cost)


def _inside(folder: Path, path: str) -> Path:
    target = Path(os.path.normpath(folder / path))
    if not target.is_relative_to(folder):
        raise UserError(folder / RECORD, f"a stage outside the folder: {path}", "a path within it")
    return target


def _expand(folder: Path, prefix: str) -> list[Stage]:
    stage = _read(folder, prefix + folder.name)
    if not isinstance(stage.record, PipelineRecord):
        return [stage]
    if not stage.record.stages:
        raise UserError(folder / RECORD, "no stages in it", "a finished `smelt run` result")
    found = [stage]
    for entry in stage.record.stages:
        found.append(_read(_inside(folder, entry.path), prefix + entry.name, entry.seed))
    return found


def gather(runs: list[Path]) -> list[Stage]:
    """All stages of result folders and pipeline folders, in their order.

    A search that still runs counts as a stage too, by its journal alone.
    With several pipelines the names of their stages begin with the pipeline's folder name.
    Raises UserError for a folder that is no result, and for two results of one name and seed.
    """
    if not runs:
        raise UserError("smelt report", "no result folder", "RUN...")
    folders = [_working(Path(os.path.abspath(run))) for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if not folder.is_dir():
            raise UserError(run, "no such folder", "a result folder of smelt")
    whole = [folder for folder in folders if not _is_running(folder)]
    pipelines = sum(read_record(folder).get("verb") == "run" for folder in whole)
    stages = []
    for folder in folders:
        stages += _expand(folder, f"{folder.name}/" if pipelines > 1 else "")
    seen: dict[tuple[str, str, int], Path] = {}
    for stage in stages:
        first = seen.setdefault((stage.name, stage.record.verb, stage.seed), stage.folder)
        if first != stage.folder:
            raise UserError(
                stage.folder,
                f"a second result '{stage.name}' of seed {stage.seed}, besides {first}",
                "one folder for each name and seed",
            )
    return list({stage.folder: stage for stage in stages}.values())


def by_name(stages: list[Stage], cls: type[AnyRecord]) -> dict[str, list[tuple[Stage, AnyRecord]]]:
    """Stages whose record is of a class, grouped by name (one entry a seed), in their order."""
    groups: dict[str, list[tuple[Stage, AnyRecord]]] = {}
    for stage in stages:
        if isinstance(stage.record, cls):
            groups.setdefault(stage.name, []).append((stage, stage.record))
    return {name: sorted(group, key=lambda pair: pair[0].seed) for name, group in groups.items()}
