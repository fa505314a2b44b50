"""The record of an eval as tables for the terminal."""

from typing import Any

from rich.table import Table

Record = dict[str, Any]


def tables(record: Record) -> list[Table]:
    """Scores and likelihoods; where the recipe asks for them, pass@k, pairs of models, gains."""
    made = [_scores(record), _drawn(record), _texts(record), _pairs(record), _gains(record)]
    return [table for table in made if table.row_count]


def _scores(record: Record) -> Table:
    """unread: answers without a readable result; cut: answers that the budget ended."""
    table = Table("model", "benchmark", "score", "95 % interval", "unread", "cut")
    for model, cells in record["scores"].items():
        for name, cell in cells.items():
            score = f"{cell['correct']}/{cell['total']} = {cell['accuracy']:.3f}"
            unread, cut = str(cell["unparsed"]), str(cell.get("unfinished", ""))
            table.add_row(model, name, score, _interval(cell), unread, cut)
    return table


def _drawn(record: Record) -> Table:
    table = Table("model", "benchmark", "one of k answers is right")
    for model, cells in record["scores"].items():
        for name, cell in cells.items():
            if found := cell.get("pass_at"):
                shares = ", ".join(f"pass@{k} {share:.3f}" for k, share in found.items())
                table.add_row(model, name, shares)
    return table


def _texts(record: Record) -> Table:
    table = Table("model", "text", "bits per byte", "perplexity")
    for model, texts in record["likelihood"].items():
        for name, cell in texts.items():
            bits, perplexity = f"{cell['bits_per_byte']:.4f}", f"{cell['perplexity']:.3f}"
            table.add_row(model, name, bits, perplexity)
    return table


def _pairs(record: Record) -> Table:
    table = Table("models", "benchmark", "difference", "95 % interval", "p")
    for row in record.get("comparisons", []):
        first, second = row["models"]
        difference = f"{row['difference']:+.3f}"
        table.add_row(f"{first} -> {second}", row["benchmark"], difference, _interval(row),
                      f"{row['p']:.3g}")  # fmt: skip
    return table


def _gains(record: Record) -> Table:
    table = Table("model", "combined skill", "gain", "95 % interval", "over the best expert")
    for row in record.get("combined", []):
        best = f"{row['best_expert']}: {row['expert_accuracy']:.3f}"
        table.add_row(row["model"], row["pair"], f"{row['gain']:+.3f}", _interval(row), best)
    return table


def _interval(cell: Record) -> str:
    return f"{cell['low']:.3f} to {cell['high']:.3f}"
