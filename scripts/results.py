"""Write what a finished run measured into the docs: never typed by hand.

python scripts/results.py out/tiny README.md     the `results` block: group means and cost
python scripts/results.py out/five docs/seeds.md  a whole page: every column and every comparison
"""

import json
import re
import sys
from pathlib import Path

from smelt.report.evaluated import rows_of
from smelt.report.page import markdown_scores
from smelt.report.records import EvalRecord
from smelt.report.stages import by_name, gather
from smelt.report.statements import claims, summary

BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- end results -->)", re.DOTALL)


def cost(out: Path) -> str:
    """CPU minutes of all stages, and the largest stage's memory."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("seed-*/*/cost.json"))]
    minutes = sum(row["cpu_seconds"] for row in found) / 60
    peak = max(row["peak_memory_mb"] for row in found)
    seeds = len(list(out.glob("seed-*")))
    return f"{seeds} seeds, {minutes:.0f} CPU minutes in all, at most {peak:.0f} MB in a stage"


def sentences(out: Path) -> tuple[list[str], list[str]]:
    """The summary lines with the number of comparisons, and every comparison in full."""
    short, full = [], []
    for pairs in by_name(gather([out]), EvalRecord).values():
        found = claims(rows_of(pairs))
        short += [f"- {line}" for line in summary(found)]
        full += [f"- **{claim.model}** {claim.text}" for claim in found]
    note = f"Gaps in percentage points; {len(full)} comparisons, none corrected for their number."
    return [*short, "", note], full


def block(out: Path, only: list[str]) -> str:
    """Group means, the sentences about them, the cost."""
    short, _ = sentences(out)
    return "\n".join([markdown_scores([out], only), "", *short, "", f"Cost: {cost(out)}."]) + "\n"


def page(out: Path, name: str) -> str:
    """The page of a run over many seeds."""
    short, full = sentences(out)
    record = json.loads((out / "run.json").read_text())
    seeds = ", ".join(str(seed) for seed in record["recipe"]["seeds"])
    return "\n".join(
        [
            f"# {record['title']}: seeds {seeds}",
            "",
            f"Command: `smelt run recipes/tiny.yaml {name} --set seeds=[{seeds.replace(' ', '')}]`;"
            f" this page: `python scripts/results.py {name} docs/seeds.md`. {cost(out)}.",
            "",
            "Accuracy, mean over seeds; in brackets the 95 % interval over items. The best expert"
            " of a column is bold.",
            "",
            markdown_scores([out]),
            "",
            "## Who beats whom",
            "",
            *short,
            "",
            "## Every comparison",
            "",
            *full,
            "",
        ]
    )


def main() -> None:
    """Fill the block of a page that has one, else write the whole page."""
    out, target = Path(sys.argv[1]), Path(sys.argv[2])
    text = target.read_text(encoding="utf-8") if target.is_file() else ""
    if BLOCK.search(text):
        only = ["domains", "combined", "fourth"]
        text = BLOCK.sub(lambda found: found[1] + block(out, only) + found[2], text)
    else:
        text = page(out, str(out))
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
