"""From eval records to the rows of the score table."""

from smelt.report.records import EvalRecord
from smelt.report.stages import Stage
from smelt.report.tables import Row, score_table


def _plain(record: EvalRecord) -> dict[str, dict[str, dict[str, float]]]:
    return {
        model: {
            name: {"correct": float(score.correct), "total": float(score.total)}
            for name, score in of_model.items()
        }
        for model, of_model in record.scores.items()
    }


def rows_of(group: list[tuple[Stage, EvalRecord]]) -> list[Row]:
    """The score table of one eval stage over its seeds; of roles and groups the first wins."""
    roles: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for _, record in group:
        roles = {**record.roles, **roles}
        groups = {**record.groups, **groups}
    scores = {stage.seed: _plain(record) for stage, record in group}
    return score_table(scores, roles=roles, groups=groups)
