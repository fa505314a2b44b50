"""Any task of lm-evaluation-harness on any backend of ours: benchmark entries `lm_eval/TASK`."""

import json
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from smelt.core import config
from smelt.core.config import Recipe
from smelt.core.errors import UserError, nearest, needs
from smelt.evals.answers import Store
from smelt.evals.lm_eval_cells import Cell, cells
from smelt.evals.lm_eval_model import new
from smelt.evals.recipe import BenchmarkEntry
from smelt.models.backend import Backend

PREFIX = "lm_eval/"
# What lm-eval seeds its own draws with, so that few-shot examples are those of published figures.
FEWSHOT_SEED = 1234
# Benchmarks of ours that run the programs of lm-eval's unsafe tasks in the sandbox.
SANDBOXED = ("humaneval_plus", "humaneval", "mbpp_plus", "mbpp")
# What reading a task and its data may raise: they are files, and code, of others.
LOADING = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError)


class Options(Recipe):
    """`options` of an entry lm_eval/TASK."""

    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Solved examples; what the task says unless given (the same as `shots`)."""
    include_path: str | None = None
    """Folder of your own tasks (YAML). Functions that they name are run: it must be your code."""
    metric: str | None = None
    """What the score is, NAME or NAME,FILTER, e.g. acc_norm; the task's first unless given."""
    gen_kwargs: dict[str, Any] = Field(default={})
    """Over the task's generation_kwargs: until, max_gen_toks, do_sample, temperature, top_p."""
    system_instruction: str | None = None
    """Put before the prompt, or into the conversation."""
    fewshot_as_multiturn: bool = True
    """In the chat form: each solved example is a turn of the conversation."""
    fewshot_seed: int = FEWSHOT_SEED
    """Draws few-shot examples; lm-eval's own unless given."""
    metadata: dict[str, Any] = Field(default={})
    """For tasks that read it (lengths of RULER and the like)."""


def is_task(name: str) -> bool:
    """Does a benchmark entry's name mean a task of lm-eval?"""
    return name.startswith(PREFIX)


def check_task(entry: BenchmarkEntry, where: str, *, unsafe_code: bool = False) -> None:
    """Load a task and its data, and refuse what cannot be run. Raises UserError."""
    _load(entry.name, tuple(entry.only), _options(entry, where), where, unsafe_code)


def run_task(
    backend: Backend,
    entry: BenchmarkEntry,
    *,
    where: str,
    store: Store | None,
    samples_folder: Path,
    seed: int,
    limit: int | None,
    unsafe_code: bool = False,
) -> dict[str, Cell]:
    """Ask a model a task, or every task of a group; one row for each task, or for a group that
    has a score of its own. `samples_folder` gets a file for each row.

    Raises UserError for an unknown task, data that cannot be had, or unsafe code not accepted.
    """
    options = _options(entry, where)
    loaded, first_shots = _load(entry.name, tuple(entry.only), options, where, unsafe_code)
    template = backend.chat([{"role": "user", "content": "?"}]) is not None
    if entry.form == "chat" and not template:
        raise UserError(where, "a model without a chat template", "form: base")
    chat = template and entry.form != "base"
    from lm_eval.evaluator import evaluate

    for name, task in loaded["tasks"].items():
        _configure(task, options, first_shots[name])
    model = new(backend, store, label=f"eval: {entry.name}", where=where, seed=seed)
    with _seeded():
        results = evaluate(
            lm=model,
            task_dict=loaded,
            limit=limit,
            bootstrap_iters=0,
            system_instruction=options.system_instruction,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat and options.fewshot_as_multiturn,
            confirm_run_unsafe_code=unsafe_code,
        )
    return cells(
        entry.name.removeprefix(PREFIX), loaded, results, model, samples_folder,
        form="chat" if chat else "base", metric=options.metric, where=where, seed=seed,
    )  # fmt: skip


def _options(entry: BenchmarkEntry, where: str) -> Options:
    """The options of an entry, with its `shots` in them."""
    for package in ("lm_eval", "datasets"):
        if find_spec(package) is None:
            raise needs("lm-eval", package)
    options = config.parse(Options, entry.options, f"{where}: options", "docs/lm-eval.md")
    for key, value in (("data", entry.data), ("split", entry.split)):
        if value is not None:
            raise UserError(f"{where}: {key}", f"of {entry.name}", "no such key: its YAML says it")
    if entry.shots is not None:
        if options.num_fewshot not in (None, entry.shots):
            found = f"shots: {entry.shots} and num_fewshot: {options.num_fewshot}"
            raise UserError(where, found, "one of the two")
        options = options.model_copy(update={"num_fewshot": entry.shots})
    folder = options.include_path
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"{where}: options.include_path", f"no such folder: {folder}", "a folder")
    return options


@lru_cache(maxsize=4)
def _manager(include_path: str | None, metadata: str, defaults: bool) -> Any:
    """The tasks that there are. Reading lm-eval's own takes ten seconds, so it is kept."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(
        include_path=include_path, include_defaults=defaults, metadata=json.loads(metadata)
    )


def _find(name: str, options: Options, where: str) -> Any:
    """The manager that knows a task and all that it is made of: without lm-eval's own tasks where
    the user's folder is enough."""
    metadata = json.dumps(options.metadata, sort_keys=True)
    if options.include_path is not None:
        manager = _manager(options.include_path, metadata, False)
        if name in manager.task_index and not _members(manager.task_index, name)[1]:
            return manager
    manager = _manager(options.include_path, metadata, True)
    if name not in manager.task_index:
        near = [other for other in manager.all_tasks if other[:3] == name[:3]][:50]
        raise UserError(where, f"lm-eval has no task '{name}'", nearest(name, near or ["none"]),
                        "lm_eval ls tasks")  # fmt: skip
    return manager


def _members(index: dict[str, Any], name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The configurations that a name stands for, as its YAML files say, and names not found."""
    configs, missing, left, seen = [], [], [name], set[str]()
    while left:
        current = left.pop()
        if current in seen:
            continue
        seen.add(current)
        if current not in index:
            missing.append(current)
            continue
        found = index[current]
        own = dict(found.cfg or {})
        configs.append(own)
        if found.kind.name == "TAG":
            left += sorted(found.tags)
            continue
        members = own.get("task")
        for member in members if isinstance(members, list) else []:
            if isinstance(member, dict):
                configs.append(member)
                # A group or task written out in place has no file of its own.
                other = member.get("group") or member.get("task")
                left += [other] if isinstance(other, str) and other in index else []
            else:
                left.append(str(member))
    return configs, missing


def _refuse(configs: list[dict[str, Any]], name: str, unsafe_code: bool, where: str) -> None:
    """Refuse code from data sets, and generated programs run unprotected in this process."""
    for own in configs:
        remote = (own.get("dataset_kwargs") or {}).get("trust_remote_code")
        if remote and not _data_is_only_data():
            raise UserError(f"{where}: {name}", "trust_remote_code", "data without code of its own")
        if own.get("unsafe_code") and not unsafe_code:
            ours = next((one for one in SANDBOXED if name.startswith(one)), "humaneval, mbpp")
            raise UserError(
                f"{where}: {name}", "it runs what the model writes in this process",
                f"a benchmark of smelt's own, which runs it in the sandbox: {ours}",
                "or accept the risk: unsafe_code: true",
            )  # fmt: skip


def _data_is_only_data() -> bool:
    """From 4.0 on `datasets` runs no code of a data set, whatever a task says."""
    import datasets

    return int(datasets.__version__.partition(".")[0]) >= 4


def _load(
    name: str, only: tuple[str, ...], options: Options, where: str, unsafe_code: bool
) -> tuple[dict[str, Any], dict[str, int | None]]:
    """lm-eval's task dictionary of a name, and how many shots each task itself says."""
    return _loaded(name.removeprefix(PREFIX), only, options.model_dump_json(), where, unsafe_code)


@lru_cache(maxsize=8)
def _loaded(
    name: str, only: tuple[str, ...], options_json: str, where: str, unsafe_code: bool
) -> tuple[dict[str, Any], dict[str, int | None]]:
    # Kept, since every model is asked the same.
    options = Options.model_validate_json(options_json)
    manager = _find(name, options, where)
    _refuse(_members(manager.task_index, name)[0], name, unsafe_code, where)
    if unsafe_code:
        # Hugging Face's code_eval asks for this before it runs programs.
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    try:
        loaded: dict[str, Any] = manager.load([name])
    except LOADING as error:
        if isinstance(error, ModuleNotFoundError):
            found = f"needs the package {error.name}"
            raise UserError(f"{where}: {name}", found, "", f"pip install {error.name}") from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{where}: {name}", f"cannot be loaded ({lines[-1]})", "its data here or on the hub",
            "docs/lm-eval.md, section Data",
        ) from error  # fmt: skip
    if only:
        _keep(loaded, only, where)
    for one, task in loaded["tasks"].items():
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"{where}: {one}", "a task with pictures or sound", "a task of text")
    return loaded, {one: task.config.num_fewshot for one, task in loaded["tasks"].items()}


def _keep(loaded: dict[str, Any], only: tuple[str, ...], where: str) -> None:
    """Leave out the tasks that were not asked for, also of the groups they belong to."""
    if missing := [name for name in only if name not in loaded["tasks"]]:
        choices = sorted(loaded["tasks"])
        raise UserError(f"{where}: only", f"no task '{missing[0]}'", nearest(missing[0], choices))
    for other in [name for name in loaded["tasks"] if name not in only]:
        del loaded["tasks"][other]
        for group in loaded.get("groups", {}).values():
            group.pop(other)


def _configure(task: Any, options: Options, own_shots: int | None) -> None:
    """Shots, their seed and generation keywords, as lm-eval's own command line sets them."""
    if options.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(options.gen_kwargs), update=True)
    shots = own_shots or 0
    # A task that says 0 itself has no examples to show.
    if options.num_fewshot is not None and own_shots != 0:
        shots = options.num_fewshot
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=options.fewshot_seed)


@contextmanager
def _seeded() -> Iterator[None]:
    """lm-eval's seeds of the global generators, which some tasks draw from; put back after."""
    kept, kept_numpy = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    try:
        yield
    finally:
        random.setstate(kept)
        np.random.set_state(kept_numpy)
