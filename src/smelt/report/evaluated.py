"""From eval records to the rows of the score table and of the likelihood table."""

from dataclasses import dataclass

from smelt.report.records import EvalRecord, Score
from smelt.report.stages import Stage
from smelt.report.tables import Row, escaped, ranked, score_table


def _plain(record: EvalRecord) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for model, of_model in record.scores.items():
        for name, score in of_model.items():
            cell = {"correct": score.correct, "total": float(score.total)}
            known = {"accuracy": score.accuracy, "low": score.low, "high": score.high}
            cell |= {key: value for key, value in known.items() if value is not None}
            if _other(score):
                cell |= {"other": 1.0, "falling": float(score.lower_is_better)}
            found.setdefault(model, {})[name] = cell
    return found


def _other(score: Score) -> bool:
    """Is a score something else than a share of right answers?"""
    parts = [score.accuracy, score.low, score.high]
    return score.lower_is_better or any(part is not None and not 0 <= part <= 1 for part in parts)


def same_items(group: list[tuple[Stage, EvalRecord]]) -> bool:
    """Did seeds answer the same items? Yes, unless each records data files of its own."""
    files = [
        {entry.sha256 for name, entry in record.inputs.items() if name.startswith("benchmarks.")}
        for _, record in group
    ]
    return not all(files) or len(set().union(*files)) < sum(map(len, files))


def roles_of(group: list[tuple[Stage, EvalRecord]]) -> dict[str, str]:
    """The role of each model; the first seed that names one wins."""
    roles: dict[str, str] = {}
    for _, record in group:
        roles = {**record.roles, **roles}
    return roles


def rows_of(group: list[tuple[Stage, EvalRecord]]) -> list[Row]:
    """The score table of one eval stage over its seeds; of roles and groups the first wins."""
    groups: dict[str, list[str]] = {}
    for _, record in group:
        groups = {**record.groups, **groups}
    scores = {stage.seed: _plain(record) for stage, record in group}
    return score_table(scores, roles=roles_of(group), groups=groups, same_items=same_items(group))


@dataclass(frozen=True)
class TextScore:
    """How a model predicts a text: means over seeds, and the bits per byte of each seed."""

    bits_per_byte: float
    perplexity: float
    seeds: dict[int, float]


@dataclass(frozen=True)
class TextRow:
    """One model of the likelihood table: text name -> score."""

    model: str
    role: str
    cells: dict[str, TextScore]


def likelihoods_of(group: list[tuple[Stage, EvalRecord]]) -> list[TextRow]:
    """The likelihood table of one eval stage over its seeds; no rows when no text was measured."""
    found: dict[str, dict[str, dict[int, tuple[float, float]]]] = {}
    for stage, record in sorted(group, key=lambda pair: pair[0].seed):
        for model, texts in record.likelihood.items():
            for text, cell in texts.items():
                seeds = found.setdefault(model, {}).setdefault(text, {})
                seeds[stage.seed] = (cell.bits_per_byte, cell.perplexity)
    roles = roles_of(group)
    return [
        TextRow(
            model,
            roles.get(model, ""),
            {
                text: TextScore(
                    sum(bits for bits, _ in seeds.values()) / len(seeds),
                    sum(perplexity for _, perplexity in seeds.values()) / len(seeds),
                    {seed: bits for seed, (bits, _) in seeds.items()},
                )
                for text, seeds in found[model].items()
            },
        )
        for model in ranked(list(found), roles)
    ]


def text_names(rows: list[TextRow]) -> list[str]:
    """The texts of a likelihood table, in order of first appearance."""
    return list(dict.fromkeys(text for row in rows for text in row.cells))


def markdown_likelihood(rows: list[TextRow]) -> str:
    """Bits per byte as markdown; lower is better."""
    texts = text_names(rows)
    heads = " | ".join(f"{escaped(text)}, bits per byte" for text in texts)
    lines = [f"| model | role | {heads} |", "|---|---|" + "--:|" * len(texts)]
    for row in rows:
        cells = [f"{row.cells[text].bits_per_byte:.4f}" if text in row.cells else "-"
                 for text in texts]  # fmt: skip
        lines.append(f"| {escaped(row.model)} | {escaped(row.role)} | {' | '.join(cells)} |")
    return "\n".join(lines)
