"""lm-eval's verdicts on invented questions, kept in lmeval_frozen.json. To make them anew:

SMELT_LMEVAL_PYTHON=/path/to/python python -m tests.evals.lmeval_frozen
"""

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

from tests.evals.lmeval_cases import SEED, Case, fixed, job, per_subject, with_shared
from tests.evals.lmeval_compare import run_lm_eval
from tests.evals.lmeval_invented import INVENTED

FROZEN = Path(__file__).with_name("lmeval_frozen.json")
# Outputs of each question; likelihoods need few.
EACH = {"humaneval": 12, "mbpp": 12, "gsm8k": 16, "bbh": 16, "mmlu_pro": 12, "drop": 16}
# Solved examples of these are lm-eval's own texts, which are not ours to keep.
OWN_SHOTS = ("bbh", "mbpp")
SHOTS = 2


def case_of(name: str) -> Case:
    """The case of an invented set, its subject being the part after the stroke."""
    benchmark, _, subject = name.partition("/")
    return per_subject(benchmark, subject) if subject else fixed()[name]


def freeze(python: str) -> dict[str, Any]:
    """Rows, outputs, and what lm-eval says of them: its verdicts and its prompts."""
    kept: dict[str, Any] = {}
    jobs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, (rows, shown) in INVENTED.items():
            case = case_of(name)
            each = EACH.get(case.benchmark, 4)
            outputs = []
            for row in rows:
                rng = random.Random(f"{SEED} {row['id']}")
                written = [case.write(row, rows, rng) for _ in range(each)]
                outputs.append(with_shared(written, case))
            shots = 0 if case.benchmark in OWN_SHOTS or not shown else SHOTS
            kept[name] = {"rows": rows, "shown": shown, "outputs": outputs, "shots": shots}
            file = folder / name.replace("/", "-")
            plain = job(case, file, rows, shown or rows)
            jobs[name] = plain | {"shots": 0, "outputs": outputs}
            jobs[f"{name} prompts"] = plain | {"shots": shots, "first": True}
        found = run_lm_eval(python, jobs, folder)
    for name, own in kept.items():
        own["verdicts"] = found["results"][name]["verdicts"]
        own["prompts"] = found["results"][f"{name} prompts"]["prompts"]
    return {"version": found["version"], "cases": kept}


if __name__ == "__main__":
    text = json.dumps(freeze(os.environ["SMELT_LMEVAL_PYTHON"]), indent=None, sort_keys=True)
    FROZEN.write_text(text.replace('], "', '],\n"') + "\n")
