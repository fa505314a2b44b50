"""Cost: wall and CPU seconds and peak memory of each stage, and their sums."""

from typing import Any

from smelt.report.records import Cost, PipelineRecord
from smelt.report.stages import Stage


def _sum(costs: list[Cost]) -> Cost:
    return Cost(
        seconds=sum(cost.seconds for cost in costs),
        cpu_seconds=sum(cost.cpu_seconds for cost in costs),
        peak_memory_mb=max((cost.peak_memory_mb for cost in costs), default=0.0),
        attempts=sum(cost.attempts for cost in costs),
    )


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def section(stages: list[Stage]) -> dict[str, Any] | None:
    """One row for each stage name, summed over its seeds; the pipelines' own meters apart."""
    names: dict[str, list[Cost]] = {}
    verbs: dict[str, str] = {}
    pipelines = []
    for stage in stages:
        if stage.cost is None:
            continue
        if isinstance(stage.record, PipelineRecord):
            pipelines.append((stage.name, stage.cost))
        else:
            names.setdefault(stage.name, []).append(stage.cost)
            verbs[stage.name] = stage.record.verb
    if not names:
        return None
    total = _sum([cost for costs in names.values() for cost in costs])
    rows = []
    for name, costs in names.items():
        cost = _sum(costs)
        share = cost.cpu_seconds / total.cpu_seconds if total.cpu_seconds else 0.0
        rows.append({"name": name, "verb": verbs[name], "runs": len(costs), "cost": cost,
                     "share": share})  # fmt: skip
    return {"id": "cost", "title": "Cost", "rows": rows, "total": total, "pipelines": pipelines}
