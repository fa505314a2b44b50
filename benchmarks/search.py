"""Racing against plain CMA-ES, and what a candidate's time goes to.

    python benchmarks/search.py [--seeds 10] [--run FOLDER] [--write]

Synthetic: 200 items right or wrong by a latent skill that falls off around an optimum, another one
for each of four topics; a third of the items is always right, a quarter always wrong, and every
item has ripples of its own. Counted is what it takes until a candidate that was measured on all
items has 90 % of what plain CMA-ES gains over the start, in evaluations of single items; plain
CMA-ES may measure 300 candidates, racing 700.

With FOLDER, seed-0 of a `smelt run tiny`: the same on base and experts that are merged in memory
by task arithmetic, layer by layer (15 values), with its fitness split; racing may measure four
times the candidates. And the share of CPU time that merging takes of a candidate. One thread.
--write puts the tables into RESULTS.md.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from search_exam import Exam, reached

from smelt.core import progress, registry
from smelt.search.evolve import Result, evolve
from smelt.search.measured import Log
from smelt.search.recipe import Racing
from smelt.search.workers import Here, Measure

RESULTS = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- generated: search -->", "<!-- end search -->"
SIZES, ITEMS, PLAIN, RACED, SHARE = (3, 8, 16), 200, 300, 700, 0.9
RATIO_BAR, MERGE_BAR = 0.5, 0.05
VARIANTS = {
    "racing": Racing(),
    "racing, items at random": Racing(select=False),
    "racing, first: 0.125": Racing(first=0.125),
}


@dataclass
class Searched:
    """A search: its result, its journal's rows, CPU seconds."""

    result: Result
    rows: list[dict[str, Any]] = field(repr=False)
    seconds: float = 0.0


def search(
    measure: Measure,
    start: list[float],
    weights: list[float],
    groups: list[str],
    *,
    seed: int,
    evaluations: int,
    racing: Racing | None,
    sigma: float = 1 / 6,
) -> Searched:
    """CMA-ES over one problem."""
    algorithm = registry.load("search-algorithm", "cma_es")(start, seed, sigma=sigma)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        with Log(Path(folder)) as log:
            result = evolve(
                algorithm, Here(measure), log, weights=weights, groups=groups, racing=racing,
                evaluations=evaluations, label="search",
            )  # fmt: skip
        lines = (Path(folder) / "journal.jsonl").read_text().splitlines()
    return Searched(result, [json.loads(x) for x in lines], time.process_time() - begun)


Try = Callable[[int, int, "Racing | None"], Searched]
"""seed, evaluations, racing -> search."""


def compare(attempt: Try, seeds: int, plain: int, raced: int) -> dict[str, list[float]]:
    """Ratio of item evaluations to the aim of each seed, by variant."""
    ratios: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for seed in range(seeds):
        usual = attempt(seed, plain, None)
        start = usual.result.start or 0.0
        aim = start + SHARE * (usual.result.best - start)
        for name, racing in VARIANTS.items():
            found = attempt(seed, raced, racing)
            ratios[name].append(reached(found.rows, aim) / reached(usual.rows, aim))
    return ratios


def synthetic(seeds: int) -> list[str]:
    """Rows of the table: per number of values, the median ratio of every variant."""
    rows = []
    for size in SIZES:

        def attempt(seed: int, count: int, racing: Racing | None, size: int = size) -> Searched:
            return search(
                Exam(size, [seed, size], ITEMS), [0.5] * size, [1 / ITEMS] * ITEMS, [""] * ITEMS,
                seed=seed, evaluations=count, racing=racing,
            )  # fmt: skip

        rows.append(row(f"synthetic, {size} values", compare(attempt, seeds, PLAIN, RACED)))
    return rows


def row(name: str, ratios: dict[str, list[float]]) -> str:
    """One line of the table."""
    cells = []
    for found in ratios.values():
        low, high = sorted(found)[0], sorted(found)[-1]
        cells.append(f"{statistics.median(found):.2f} ({low:.2f} to {high:.2f})")
    return f"| {name} | {' | '.join(cells)} |"


class Timed:
    """Merging in memory at the size of the demo; counts CPU seconds of merging and of the rest."""

    def __init__(self, folder: Path) -> None:
        from smelt.evals.candidates import Candidates, prepare_sides

        domains = dict.fromkeys(("math", "logic", "code", "ml", "mc", "lc"), 1.0)
        fitness = {"data": str(folder / "data/fitness.jsonl"), "domains": domains, "limit": 120}
        data = {
            "merge_method": "task_arithmetic", "base_model": str(folder / "base"),
            "models": [{"model": str(folder / name)} for name in ("math", "logic", "code")],
            "parameters": {"weight": "search"},
            "search": {"layer_groups": "all", "fitness": fitness},
        }  # fmt: skip
        self.candidates = Candidates(prepare_sides(data, "benchmark"), "benchmark", "cpu")
        self.merging = self.scoring = 0.0

    def __call__(self, genome: list[float], items: list[int]) -> list[list[float]]:
        """As the candidates of `smelt search`."""
        begun = time.process_time()
        self.candidates.become(genome)
        merged = time.process_time()
        values = self.candidates.fitness(items)[0]
        self.merging += merged - begun
        self.scoring += time.process_time() - merged
        return [values]

    def share(self) -> float:
        """Of merging in all CPU time since the last call of `reset`."""
        return self.merging / (self.merging + self.scoring)

    def reset(self) -> None:
        """Count from here on."""
        self.merging = self.scoring = 0.0


def demo(folder: Path, seeds: int, evaluations: int) -> tuple[list[str], list[str]]:
    """The row of real merges, and lines about the share of merging."""
    timed = Timed(folder)
    scores = timed.candidates.fitness
    size = timed.candidates.space.size
    timed([0.5] * size, list(range(len(scores.weights))))  # compiles kernels
    shares: dict[bool, list[float]] = {False: [], True: []}
    seconds: dict[bool, list[float]] = {False: [], True: []}

    def attempt(seed: int, count: int, racing: Racing | None) -> Searched:
        # Hardly anything of the experts: far from the optimum, so that there is a way to go.
        timed.reset()
        found = search(
            timed, [0.03] * size, scores.weights, scores.names,
            seed=seed, evaluations=count, racing=racing,
        )  # fmt: skip
        if racing in (None, VARIANTS["racing"]):
            shares[racing is not None].append(timed.share())
            seconds[racing is not None].append(found.seconds / found.result.evaluations)
        return found

    table = [
        row(f"demo models, {size} values", compare(attempt, seeds, evaluations, 4 * evaluations))
    ]
    lines = []
    for raced, name in ((False, "every candidate on all items"), (True, "racing")):
        lines.append(
            f"Merging at demo size, {name}: {100 * statistics.mean(shares[raced]):.1f} % of "
            f"{statistics.mean(seconds[raced]):.3f} CPU seconds a candidate."
        )
    return table, lines


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--run", type=Path, help="folder of a `smelt run tiny`")
    parser.add_argument("--run-seeds", type=int, default=3)
    parser.add_argument("--run-evaluations", type=int, default=120)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    progress.report_to(lambda event: None)
    table = [
        f"| item evaluations to the aim, of plain CMA-ES | {' | '.join(VARIANTS)} |",
        "|---|" + "--:|" * len(VARIANTS),
        *synthetic(given.seeds),
    ]
    lines: list[str] = []
    if given.run is not None:
        rows, lines = demo(given.run / "seed-0", given.run_seeds, given.run_evaluations)
        table += rows
    note = (
        f"Medians over {given.seeds} seeds (synthetic) and {given.run_seeds} (demo), least and "
        f"most in brackets; bars: {RATIO_BAR} for racing, {MERGE_BAR:.0%} for merging."
    )
    text = "\n".join([*table, "", note, *lines])
    print(text)
    if given.write:
        old = RESULTS.read_text(encoding="utf-8")
        if BEGIN not in old:
            old = f"{old.rstrip()}\n\n## Search\n\n{BEGIN}\n{END}\n"
        before, _, rest = old.partition(BEGIN)
        _, _, after = rest.partition(END)
        RESULTS.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
