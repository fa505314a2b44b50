"""Reproduction: seeds, versions, and the hashes of every result and input."""

import posixpath
from typing import Any

import yaml

from smelt.report.records import PipelineRecord
from smelt.report.stages import Stage


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """Seeds, versions, keys, and the recipes of pipelines (or of single results)."""
    versions = {("smelt", stage.record.smelt) for stage in stages}
    versions |= {pair for stage in stages for pair in stage.record.versions.items()}
    rows = [
        {
            "name": stage.name,
            "verb": stage.record.verb,
            "seed": stage.seed,
            "key": stage.record.key,
            "inputs": [
                (name, posixpath.basename(entry.path), entry.sha256)
                for name, entry in sorted(stage.record.inputs.items())
            ],
        }
        for stage in stages
    ]
    pipelines = [stage for stage in stages if isinstance(stage.record, PipelineRecord)]
    recipes = [
        (stage.name, yaml.safe_dump(stage.record.recipe, sort_keys=True, allow_unicode=True))
        for stage in pipelines or stages
        if stage.record.recipe
    ]
    return {
        "id": "reproduce",
        "title": "Reproduction",
        "seeds": sorted({stage.seed for stage in stages}),
        "versions": sorted(versions),
        "rows": rows,
        "recipes": recipes,
    }
