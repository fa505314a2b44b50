"""Two verdicts on the same outputs held against each other."""

import json
import os
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.evals.lmeval_cases import Case, Row, cut, our_stop
from tests.evals.lmeval_differences import DIFFERENCES

RUNNER = Path(__file__).with_name("lmeval_runs.py")
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
Theirs = list[list[dict[str, dict[str, float]]]]
"""[turn][row]{filter: {metric: value}}"""


@dataclass
class Tally:
    """Verdicts of one reading: how many, how many equal, the others by topic, and the rest."""

    total: int = 0
    equal: int = 0
    topics: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)


def run_lm_eval(python: str, jobs: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What lm-eval says of all jobs, and its version; it runs in its own python."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [python, str(RUNNER), str(folder / "jobs.json"), str(folder / "verdicts.json")],
        capture_output=True, text=True,
        env=os.environ | OFFLINE | {"HF_DATASETS_CACHE": str(folder / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "verdicts.json").read_text())
    return found


def why(case: Case, reading: str, text: Any, gold: str, theirs: float, ours: float) -> str | None:
    """The listed topic of a disagreement; None when there is none."""
    known = [one for one in DIFFERENCES if one.benchmark == case.benchmark]
    if not isinstance(text, str):
        return None
    if cut(text, case.stop) != cut(text, our_stop(case)):
        # The same output as both leave it is compared too: only what they cut may differ here.
        return "stop texts" if any(one.of == "stop texts" for one in known) else None
    left = cut(text, case.stop)
    for one in known:
        if one.of == reading and one.applies and one.applies(left, gold, theirs, ours):
            return one.topic
    return None


def compare(
    case: Case, rows: list[Row], outputs: list[list[Any]], ours: list[list[dict[str, float]]],
    theirs: Theirs, tallies: dict[str, Tally],
) -> None:  # fmt: skip
    """Count agreements and explained disagreements of every reading into `tallies`."""
    for reading, (name, metric) in {**case.rules, **case.beside}.items():
        tally = tallies.setdefault(f"{case.benchmark}: {reading}", Tally())
        for place, row in enumerate(rows):
            for turn, text in enumerate(outputs[place]):
                wanted = theirs[turn][place][name][metric]
                found = ours[place][turn][reading]
                tally.total += 1
                if abs(found - wanted) < 1e-9:
                    tally.equal += 1
                    continue
                gold = str(row.get("answer") or row.get("meta", {}).get("setup", ""))
                if topic := why(case, reading, text, gold, wanted, found):
                    tally.topics[topic] += 1
                else:
                    tally.unexplained.append(f"{text!r} gold {gold!r}: {wanted} ours {found}")
