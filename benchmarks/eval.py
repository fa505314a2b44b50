"""Samples per second: smelt's transformers backend and lm-evaluation-harness on the same prompts.

    python benchmarks/eval.py [--lm-eval PYTHON] [--tokenizer FOLDER] [--repeats 3] [--write]

PYTHON is the interpreter of an environment that has lm-eval 0.4.13 with its `hf` extra (or the
variable LM_EVAL_PYTHON); without it only smelt is measured. Two kinds of work, both with five
solved examples before each question: answers of at most 160 tokens that end at a stop text (as
GSM8K is asked), and the likelihood of four letters (as MMLU is asked; examples go by subject).

The model is a random Llama made on the spot, so answers mean nothing; a stop text that is rare in
what it writes gives answers of many lengths. Same model, prompts, stop texts, budget, precision and
largest batch; one process a run, the tools take turns, medians of the pairwise ratios. Timed from
the prompts to the score, without imports and loading. The answers of both are compared, too.
Bar: twice as fast.
"""

import argparse
import importlib.metadata
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- generated: eval -->", "<!-- end eval -->"
GPT2 = Path(__file__).resolve().parents[2] / "shared/tokenizers/gpt2"
BAR = 2.0
BUDGET, STOPS = 160, ["Question:", "q", "</s>"]
TASKS = ("generate", "choose")
NAMES = ["Ann", "Ben", "Cleo", "Dan", "Eve", "Finn"]
GOODS = ["apples", "pencils", "stamps", "marbles", "tickets", "books"]
SUBJECTS = ["algebra", "history", "law", "physics"]
_TEXT = (
    "the of a river stone market bright early number winter carries seven small letter garden "
    "between often measure paper quiet machine either water simple under"
)
WORDS = _TEXT.split()


def story(rng: random.Random) -> tuple[str, str, str]:
    """A word problem, its solution and its answer."""
    first, second, goods = rng.choice(NAMES), rng.choice(NAMES), rng.choice(GOODS)
    a, b, c = (rng.randint(2, 40) for _ in range(3))
    extra = " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, 40)))
    text = (
        f"{first} has {a} {goods} and buys {b} bags with {c} {goods} in each. {extra} On the way "
        f"home {second} is given half of what {first} had before. How many {goods} are there now?"
    )
    total = a + b * c
    solution = (
        f"{first} starts with {a} {goods}. In the bags there are {b} * {c} = {b * c} {goods}. "
        f"Together that makes {a} + {b * c} = {total} {goods}, and giving changes nothing in all."
    )
    return text, solution, str(total)


def question(rng: random.Random) -> str:
    """A question with four options."""
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(12, 60))).capitalize() + "?"
    options = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 9))) for _ in "ABCD"]
    lines = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True)]
    return "\n".join([text, *lines, "Answer:"])


def make_prompts(task: str, count: int) -> list[dict[str, str]]:
    """Prompts with their right answers, the same for everyone."""
    rng = random.Random(f"{task} 0")
    if task == "generate":
        shots = "\n\n".join(
            f"Question: {text}\nAnswer: {solution}\n#### {gold}"
            for text, solution, gold in (story(rng) for _ in range(5))
        )
        asked = [story(rng) for _ in range(count)]
        return [
            {"prompt": f"{shots}\n\nQuestion: {text}\nAnswer:", "gold": gold}
            for text, _, gold in asked
        ]
    rows = []
    for subject in SUBJECTS:
        head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        shots = "\n\n".join(f"{question(rng)} {rng.choice('ABCD')}" for _ in range(5))
        for _ in range(count // len(SUBJECTS)):
            prompt = f"{head}{shots}\n\n{question(rng)}"
            rows.append({"prompt": prompt, "gold": rng.choice("ABCD")})
    return rows


def make_model(folder: Path, tokenizer: Path | None) -> int:
    """A random Llama, whose embedding goes by the tokenizer; returns its number of parameters."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from smelt.checkpoint.tokenizer import open_tokenizer, train_tokenizer

    if tokenizer is None:
        texts = [row["prompt"] for task in TASKS for row in make_prompts(task, 8)]
        train_tokenizer(texts, folder, kind="byte_bpe", vocab_size=4096)
    else:
        shutil.copytree(tokenizer, folder)
    own = open_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=own.size, hidden_size=128, intermediate_size=384, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        initializer_range=0.2, tie_word_embeddings=True, bos_token_id=own.bos_id,
        eos_token_id=own.eos_id, pad_token_id=own.pad_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    count: int = model.num_parameters()
    return count


# One run of one tool, in a process of its own


def score(answers: list[str], rows: list[dict[str, str]]) -> int:
    """Right answers: the last number of each."""
    found = [re.findall(r"-?\d+", answer) for answer in answers]
    pairs = zip(found, rows, strict=True)
    return sum(bool(numbers) and numbers[-1] == row["gold"] for numbers, row in pairs)


def run_smelt(folder: str, task: str, rows: list[dict[str, str]], batch: int) -> dict[str, Any]:
    """Timed: prompts to score, by smelt."""
    from smelt.core import registry
    from smelt.evals.answers import likelihood_all, write_all
    from smelt.models.backend import Query, Request

    backend = registry.load("backend", "transformers")(folder, batch_size=batch)
    begun = time.perf_counter()
    if task == "generate":
        requests = [Request(row["prompt"], BUDGET, tuple(STOPS)) for row in rows]
        answers: list[Any] = [one.text for one in write_all(backend, requests, "", None)]
        right = score(answers, rows)
    else:
        queries = [Query(row["prompt"], f" {letter}") for row in rows for letter in "ABCD"]
        answers = [one.nats for one in likelihood_all(backend, queries, "", None)]
        right = choose(answers, rows)
    return {"seconds": time.perf_counter() - begun, "answers": answers, "right": right}


def run_lm_eval(folder: str, task: str, rows: list[dict[str, str]], batch: int) -> dict[str, Any]:
    """The same by lm-evaluation-harness' Hugging Face model."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=batch)
    begun = time.perf_counter()
    if task == "generate":
        keys = {"until": STOPS, "max_gen_toks": BUDGET, "do_sample": False}
        asked = [
            Instance("generate_until", {}, (row["prompt"], dict(keys)), index)
            for index, row in enumerate(rows)
        ]
        answers: list[Any] = list(model.generate_until(asked, disable_tqdm=True))
        right = score(answers, rows)
    else:
        asked = [
            Instance("loglikelihood", {}, (row["prompt"], f" {letter}"), place)
            for row in rows
            for place, letter in enumerate("ABCD")
        ]
        answers = [nats for nats, _ in model.loglikelihood(asked, disable_tqdm=True)]
        right = choose(answers, rows)
    seconds = time.perf_counter() - begun
    version = importlib.metadata.version("lm_eval")
    return {"seconds": seconds, "answers": answers, "right": right, "version": version}


def choose(nats: list[float], rows: list[dict[str, str]]) -> int:
    """Right answers: the likeliest letter of each four."""
    best = [max(range(4), key=nats[4 * index : 4 * index + 4].__getitem__) for index in
            range(len(rows))]  # fmt: skip
    return sum("ABCD"[place] == row["gold"] for place, row in zip(best, rows, strict=True))


def worker(tool: str, task: str, folder: str, batch: int) -> None:
    """Print one run as JSON."""
    rows = json.loads(Path(folder, f"{task}.json").read_text(encoding="utf-8"))
    found = (run_smelt if tool == "smelt" else run_lm_eval)(folder, task, rows, batch)
    print(json.dumps(found))


# Comparing


def call(python: str, tool: str, task: str, folder: Path, batch: int, cores: int) -> Any:
    """A run in a fresh process. Exits when it fails."""
    command = [python, __file__, "--worker", tool, "--task", task, "--model", str(folder)]
    settings = {"OMP_NUM_THREADS": str(cores), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY":
                "error", "TOKENIZERS_PARALLELISM": "true"}  # fmt: skip
    done = subprocess.run(
        [*command, "--batch", str(batch)], env=os.environ | settings, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def agreement(task: str, ours: list[Any], theirs: list[Any]) -> str:
    """How far the answers of both are the same."""
    pairs = list(zip(ours, theirs, strict=True))
    if task == "generate":
        return f"{sum(a.strip() == b.strip() for a, b in pairs)} of {len(pairs)} texts equal"
    return f"log-probabilities within {max(abs(a - b) for a, b in pairs):.0e}"


def compare(options: argparse.Namespace) -> tuple[str, list[str]]:
    """What was compared, and the table, measured."""
    head = ["work", "samples", "smelt samples/s", "lm-eval samples/s",
            f"times as fast (bar {BAR:g})", "answers"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    tools = "smelt"
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "model"
        size = make_model(folder, options.tokenizer)
        for task in TASKS:
            rows = make_prompts(task, options.items)
            (folder / f"{task}.json").write_text(json.dumps(rows), encoding="utf-8")
            ours: list[Any] = []
            theirs: list[Any] = []
            given = (task, folder, options.batch, options.cores)
            for _ in range(options.repeats):
                ours.append(call(sys.executable, "smelt", *given))
                if options.lm_eval:
                    theirs.append(call(options.lm_eval, "lm-eval", *given))
                    tools = f"smelt beside lm-eval {theirs[-1]['version']}"
            lines.append(line(task, len(rows), ours, theirs))
            print(lines[-1], flush=True)
    torch = importlib.metadata.version("torch")
    models = f"random Llama of {size / 1e6:.0f} million parameters"
    return f"{tools} (torch {torch}), {models}", lines


def line(task: str, count: int, ours: list[Any], theirs: list[Any]) -> str:
    """One row of the table."""
    rate = count / statistics.median(run["seconds"] for run in ours)
    cells = [task, str(count), f"{rate:.2f}"]
    if theirs:
        other = count / statistics.median(run["seconds"] for run in theirs)
        ratio = statistics.median(
            b["seconds"] / a["seconds"] for a, b in zip(ours, theirs, strict=True)
        )
        met = "met" if ratio >= BAR else "missed"
        same = agreement(task, ours[0]["answers"], theirs[0]["answers"])
        cells += [f"{other:.2f}", f"{ratio:.1f} {met}", same]
    else:
        cells += ["-", "-", "-"]
    return f"| {' | '.join(cells)} |"


def write(compared: str, lines: list[str], options: argparse.Namespace) -> None:
    """Put the table into RESULTS.md."""
    title = (
        f"## Evaluating\n\n`python benchmarks/eval.py --lm-eval PYTHON`: {compared} in "
        f"float32, five examples before\neach question, batches of at most {options.batch}, "
        f"{options.cores} thread(s), medians of {options.repeats} pairs in turns.\n"
    )
    text = RESULTS.read_text(encoding="utf-8")
    body = "\n".join([BEGIN, title, *lines, END])
    if BEGIN in text:
        text = text[: text.index(BEGIN)] + body + text[text.index(END) + len(END) :]
    else:
        text = text.rstrip("\n") + "\n\n" + body + "\n"
    RESULTS.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure and print, or (as a worker) do one run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lm-eval", default=os.environ.get("LM_EVAL_PYTHON"))
    parser.add_argument("--tokenizer", type=Path, default=GPT2 if GPT2.is_dir() else None)
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--worker", choices=["smelt", "lm-eval"])
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--model")
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.task, options.model, options.batch)
        return
    compared, lines = compare(options)
    print(compared)
    if options.write:
        write(compared, lines, options)


if __name__ == "__main__":
    main()
