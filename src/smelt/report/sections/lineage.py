"""Lineage: the graph of stages, one for each shape that the seeds have, and merge warnings."""

from typing import Any

from markupsafe import Markup

from smelt.report import lineage
from smelt.report.records import PipelineRecord
from smelt.report.stages import Stage


def _shape(stages: list[Stage]) -> tuple[object, ...]:
    """What two seeds must share to be drawn as one: names, verbs and arrows."""
    arrows = sorted((stages[a].name, stages[b].name) for a, b in lineage.edges(stages))
    return (*((stage.name, stage.record.verb) for stage in stages), *arrows)


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """Graphs of all seeds, equal ones drawn once."""
    seeds: dict[int, list[Stage]] = {}
    for stage in stages:
        if not isinstance(stage.record, PipelineRecord):
            seeds.setdefault(stage.seed, []).append(stage)
    shapes: dict[tuple[object, ...], list[int]] = {}
    for seed, members in seeds.items():
        shapes.setdefault(_shape(members), []).append(seed)
    if not shapes:
        return None
    graphs = [(listed, Markup(lineage.graph(seeds[listed[0]]))) for listed in shapes.values()]
    warnings = [
        (stage.name, stage.seed, text) for stage in stages for text in stage.record.warnings
    ]
    return {"id": "lineage", "title": "Lineage", "graphs": graphs, "warnings": warnings}
