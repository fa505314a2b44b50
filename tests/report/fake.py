"""A made-up pipeline result (two seeds) in smelt's record formats, written through core.run."""

import json
import random
from pathlib import Path
from typing import Any

from smelt.core.interval import wilson
from smelt.core.run import Run

SEEDS = (0, 1)
EXPERTS = ("math", "logic", "code")
GROUPS = {"domains": ["math", "logic", "code"], "combined": ["ml", "mc", "lc"]}
ROLES = {
    "base": "base",
    "math": "expert",
    "logic": "expert",
    "code": "expert",
    "uniform": "merge",
    "task_arithmetic": "merge",
    "searched": "merge",
    "fused": "fused",
    "fused_control": "control",
    "multitask": "reference",
}
# correct of TOTAL on every benchmark of (domains, combined), for seed 0; seed 1 has 4 more each.
TOTAL = 300
CORRECT = {
    "base": (120, 150),
    "math": (190, 180),
    "logic": (170, 170),
    "code": (150, 160),
    "uniform": (180, 200),
    "task_arithmetic": (196, 160),
    "searched": (250, 181),
    "fused": (200, 170),
    "fused_control": (150, 170),
    "multitask": (270, 190),
}
HOSTILE = '<script>alert("x")</script></pre></svg><img src=x onerror=alert(1)>{{ 7*7 }}$a$'


def scores(seed: int, correct: dict[str, tuple[int, int]] = CORRECT) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for model, pair in correct.items():
        found[model] = {}
        for count, members in zip(pair, GROUPS.values(), strict=True):
            for name in members:
                right = count + 4 * seed
                low, high = wilson(right, TOTAL)
                found[model][name] = {
                    "correct": right, "total": TOTAL, "accuracy": right / TOTAL,
                    "low": low, "high": high, "unparsed": 3 if model == "base" else 0,
                }  # fmt: skip
    return found


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class Maker:
    """Writes the stages of one seed and lists them for the pipeline's record."""

    def __init__(self, root: Path, seed: int, stages: list[dict[str, Any]]) -> None:
        self.root, self.seed, self.stages = root, seed, stages
        self.folder = root / f"seed-{seed}"
        self.random = random.Random(seed)

    def stage(self, name: str, verb: str, inputs: dict[str, str], **notes: Any) -> Path:
        out = self.folder / name
        paths = {key: str(self.folder / path) for key, path in inputs.items()}
        run = Run(out, verb, {"name": name, "inputs": paths}, paths, seed=self.seed)
        files = notes.pop("files_written", {})
        with run:
            for file, rows in files.items():
                lines(run.folder / file, rows)
            run.note(**notes)
        number = len(self.stages) + 1
        cost = {"seconds": 10.0 * number, "cpu_seconds": 15.0 * number,
                "peak_memory_mb": 300.0 + number, "attempts": 1}  # fmt: skip
        (out / "cost.json").write_text(json.dumps(cost))
        self.stages.append(
            {"name": name, "verb": verb, "seed": self.seed, "path": f"seed-{self.seed}/{name}"}
        )
        return out

    def train(self, name: str, inputs: dict[str, str], verb: str = "train", **notes: Any) -> None:
        rows = [
            {"step": step, "phase": "decay" if step > 400 else "warm",
             "loss": 3.0 / (1 + step / 50) + self.random.random() / 10, "lr": 1e-3, "tokens": step}
            for step in range(1, 601)
        ]  # fmt: skip
        self.stage(
            name, verb, inputs, files_written={"metrics.jsonl": rows}, parameters=412_000,
            metrics={"final_loss": rows[-1]["loss"], "steps": 600, "tokens": 1_000_000}, **notes,
        )  # fmt: skip

    def searched(self, inputs: dict[str, str]) -> None:
        values = [0.5 + 0.25 * (1 - 0.98**i) + self.random.gauss(0, 0.02) for i in range(80)]
        rows: list[dict[str, Any]] = [
            {"candidate": i, "generation": i // 8, "genome": [0.1], "fitness": value,
             "best": max(values[: i + 1]), "error": None}
            for i, value in enumerate(values)
        ]  # fmt: skip
        rows[7] |= {"fitness": None, "error": "not finite"}
        self.stage(
            "searched", "search", inputs, files_written={"journal.jsonl": rows}, method="cma_es",
            fitness={"start": 0.61, "best": 0.875, "split": "fitness", "evaluations": 80},
            coefficients={
                "rows": list(EXPERTS),
                "columns": ["embed", "layer.0", "layer.1", "layer.2", "layer.3", "head"],
                "values": [[self.random.uniform(-0.4, 1.2) for _ in range(6)] for _ in EXPERTS],
            },
        )  # fmt: skip


def _sample(benchmark: str, number: int) -> dict[str, Any]:
    return {
        "id": f"{benchmark}{number}", "prompt": f"max[{number}52]*1-2=",
        "gold": "3", "answer": HOSTILE if number == 1 else "5*1-2=5-2=3.",
        "correct": number % 2 == 0, "reason": "" if number % 2 == 0 else "wrong value",
    }  # fmt: skip


def seed_stages(maker: Maker, correct: dict[str, tuple[int, int]]) -> None:
    """Every stage of one seed."""
    maker.stage(
        "data", "data", {}, files_written={"test.jsonl": [{"seed": maker.seed}]},
        steps=[{"step": "filter:min_length", "seen": 9000, "kept": 8900, "dropped": {"short": 100}},
               {"step": "dedup", "seen": 8900, "kept": 8000, "dropped": {"duplicate": 900}}],
        splits={"train": {"math": 2000, "logic": 2001}, "test": {"math": 300, "logic": 301}},
        examples_dropped={"short": ["1", HOSTILE]},
    )  # fmt: skip
    maker.train("base", {"data": "data"})
    for name in EXPERTS:
        maker.train(name, {"model": "base", "data": "data"})
    parents = {name: name for name in ("base", *EXPERTS)}
    maker.stage("uniform", "merge", parents, method="linear", warnings=[])
    maker.stage("task_arithmetic", "merge", parents, method="task_arithmetic",
                warnings=["norm of math is 3 times that of code"])  # fmt: skip
    maker.searched(parents)
    maker.train("fused", {"pivot": "searched", "source": "math", "data": "data"}, "fuse",
                alignment={"mass": 0.97}, chosen={"math": 321, "searched": 79})  # fmt: skip
    maker.train("fused_control", {"model": "searched", "data": "data"})
    maker.train("multitask", {"model": "base", "data": "data"})
    samples = {
        f"samples/{model}/{benchmark}.jsonl": [_sample(benchmark, i) for i in range(6)]
        for model in ("base", "searched")
        for benchmark in ("math", "ml")
    }
    maker.stage(
        "eval", "eval", {"benchmarks.0": "data/test.jsonl", **{name: name for name in correct}},
        files_written=samples, scores=scores(maker.seed, correct), groups=GROUPS, roles=ROLES,
    )  # fmt: skip
    maker.stage(
        "export", "export", {"model": "searched"},
        files={"model-q8_0.gguf": {"bytes": 500_000, "sha256": "ab", "bits_per_weight": 8.5}},
        parity={"model-q8_0.gguf": {"max_logit_gap": 0.0123, "same_token": 0.998}},
    )  # fmt: skip


def pipeline(
    root: Path, correct: dict[str, tuple[int, int]] = CORRECT, seeds: tuple[int, ...] = SEEDS
) -> Path:
    """OUT of a `smelt run`, with everything that the report can show. Returns the folder."""
    stages: list[dict[str, Any]] = []
    for seed in seeds:
        seed_stages(Maker(root, seed, stages), correct)
    record = {
        "verb": "run", "smelt": "0.1.0", "key": "f" * 64, "seed": 0, "recipe": {"seeds": 2},
        "inputs": {}, "stages": stages,
    }  # fmt: skip
    (root / "run.json").write_text(json.dumps(record))
    (root / "cost.json").write_text(json.dumps({"seconds": 4000.0, "attempts": 2}))
    return root
