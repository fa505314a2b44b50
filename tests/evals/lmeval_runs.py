"""lm-evaluation-harness on given outputs: run by the python that has it, as

    python lmeval_runs.py JOBS.json OUT.json

A job names one of lm-eval's own tasks, documents in its hub's form (JSONL files by split), and
either the texts or the likelihoods that a model is supposed to have given, one list each document.
The answer has the prompts that lm-eval makes, and what its filters and metrics say of the outputs.
Uses nothing of smelt.
"""

import contextlib
import importlib.metadata
import io
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

# code_eval gives 3; as many as smelt gives, so that no verdict hangs on how busy a machine is.
SECONDS = 10.0


def passes(program: str) -> bool:
    """As Hugging Face's code_eval: the program is run in a process of its own; any exception, an
    exit, or more than SECONDS is a failure."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(program, theirs))
    process.start()
    theirs.close()
    # A program that leaves by os._exit or dies never reports.
    passed = bool(ours.poll(SECONDS + 1)) and _received(ours)
    process.kill()
    process.join()
    return passed


def _received(pipe: Any) -> bool:
    try:
        return bool(pipe.recv())
    except EOFError:
        return False


def _run(program: str, report: Any) -> None:
    import signal

    def late(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(program, {})
        report.send(True)
    except BaseException:  # a program may raise, or exit, with anything
        report.send(False)


class CodeEval:
    """In place of evaluate.load("code_eval"), which is a script on the hub."""

    def compute(self, references: list[str], predictions: list[list[str]], k: list[int]) -> Any:
        """pass@1 over all candidates, as code_eval's unbiased estimate for k = 1."""
        assert k == [1]
        shares = []
        for test, candidates in zip(references, predictions, strict=True):
            right = [passes(candidate + "\n" + test) for candidate in candidates]
            shares.append(sum(right) / len(right))
        return {"pass@1": sum(shares) / len(shares)}, {}


def make_task(job: dict[str, Any]) -> Any:
    """One of lm-eval's own tasks, from its own YAML, on local files."""
    import evaluate
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    evaluate.load = lambda name, *_, **__: CodeEval()
    home = Path(lm_eval.tasks.__file__).parent / job["folder"]
    index = TaskManager(include_path=str(home), include_defaults=False).task_index
    config = load_yaml(index[job["task"]].yaml_path, resolve_func=True)
    for key in ("tag", "group", "task_list", "task_alias"):
        config.pop(key, None)
    config |= {"dataset_path": "json", "dataset_name": None}
    config["dataset_kwargs"] = {"data_files": job["files"]}
    shown = config.get("fewshot_config") or {}
    if job.get("first") and "samples" not in shown:
        # The same examples as ours, which are the first; lm-eval draws them for most tasks.
        config["fewshot_config"] = {**shown, "sampler": "first_n"}
    for key in job.get("without", []):
        config.pop(key, None)
    task = ConfigurableTask(config=config)
    if job.get("shots") is not None or task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=job.get("shots") or 0)
    task.set_fewshot_seed(seed=1234)
    return task


def cut(text: str, stops: list[str]) -> str:
    """A text as lm-eval's models hand it on: up to its stop texts."""
    for stop in stops:
        if stop:
            text = text.split(stop)[0]
    return text


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Prompts, stop texts, and a verdict {filter: {metric: value}} for each output."""
    task = make_task(job)
    task.build_all_requests(rank=0, world_size=1)
    instances: dict[int, list[Any]] = {}
    for instance in task.instances:
        instances.setdefault(instance.doc_id, []).append(instance)
    for own in instances.values():
        own.sort(key=lambda one: one.idx)
    docs = list(task.eval_docs)
    answer: dict[str, Any] = {
        "prompts": [[list(one.args[:2]) for one in instances[place]]
                    for place in range(len(docs))],
        "verdicts": [],
    }  # fmt: skip
    if task.OUTPUT_TYPE == "generate_until":
        answer["stop"] = task.config.generation_kwargs.get("until", [])
        answer["prompts"] = [own[0].args[0] for own in instances.values()]
    outputs = job.get("outputs")
    if outputs is None:
        return answer
    # Every instance holds one output at a time; filters see the whole list, as in lm-eval.
    for turn in range(max(map(len, outputs))):
        for place, own in instances.items():
            mine = outputs[place]
            given = mine[turn] if turn < len(mine) else mine[0]
            for number, one in enumerate(own):
                one.filtered_resps = {}
                if task.OUTPUT_TYPE == "generate_until":
                    one.resps = [cut(given, answer["stop"])]
                else:
                    one.resps = [tuple(given[number])]
        task.apply_filters()
        verdicts = []
        for place, own in instances.items():
            by_filter = {}
            for name in own[0].filtered_resps:
                found = task.process_results(docs[place], [one.filtered_resps[name] for one in own])
                by_filter[name] = {key: float(value) for key, value in found.items()}
            verdicts.append(by_filter)
        answer["verdicts"].append(verdicts)
    return answer


def main(jobs_file: str, out_file: str) -> None:
    """Run the jobs of a file."""
    jobs = json.loads(Path(jobs_file).read_text())
    results = {name: run(job) for name, job in jobs.items()}
    version = importlib.metadata.version("lm_eval")
    Path(out_file).write_text(json.dumps({"version": version, "results": results}))


if __name__ == "__main__":
    main(*sys.argv[1:])
