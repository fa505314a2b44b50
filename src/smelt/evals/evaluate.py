"""An eval recipe from its first check to its record: every model, every benchmark, every text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smelt.core import config, registry
from smelt.core.errors import UserError
from smelt.core.run import Run
from smelt.evals import lm_eval
from smelt.evals.answers import Store
from smelt.evals.cells import cells_of, scores_of
from smelt.evals.exam import Exam, Paper, read_exam, write_sheet
from smelt.evals.gain import Scored, comparisons, gains
from smelt.evals.harness import Drawing, answer_sheet, majority, read_scores, write_samples
from smelt.evals.models import check_model, entry_of, input_of, open_backend, takes_device
from smelt.evals.recipe import BenchmarkEntry, EvalRecipe, ModelEntry
from smelt.evals.text import likelihood, read_text
from smelt.models.backend import Backend
from smelt.models.backends.transformers import network_and_tokenizer
from smelt.models.load import pick_device
from smelt.verify import code

SEE = "smelt show verb eval"


@dataclass(frozen=True)
class Ready:
    """A checked recipe: its models with their backends, its exams (None: a task of lm-eval), and
    files of solved examples that prompts show (benchmark -> path)."""

    recipe: EvalRecipe
    models: dict[str, ModelEntry]
    exams: list[tuple[BenchmarkEntry, Exam | None]]
    shown: dict[int, Path]
    where: str


def check_shape(data: dict[str, Any], where: str) -> EvalRecipe:
    """The recipe, with names that agree; no file is looked at. Raises UserError."""
    recipe = config.parse(EvalRecipe, data, where, SEE)
    for entry in recipe.benchmarks:
        if not lm_eval.is_task(entry.name):
            registry.load("benchmark", entry.name)
            if entry.options:
                raise UserError(f"{where}: benchmarks", f"options of {entry.name}", "none")
    known = str(sorted(recipe.models))
    for model in recipe.roles:
        if model not in recipe.models:
            raise UserError(f"{where}: roles.{model}", "no such model", known)
    for pair in recipe.compare:
        for model in pair:
            if model not in recipe.models:
                raise UserError(f"{where}: compare", f"no such model '{model}'", known)
    if recipe.samples > 1 and not recipe.temperature:
        found = f"{recipe.samples} samples, which at temperature 0 are all the same"
        raise UserError(f"{where}: samples", found, "a temperature, e.g. 0.8")
    drawn = {"temperature": recipe.temperature, "max_new_tokens": recipe.max_new_tokens}
    for key, value in drawn.items():
        if value and any(lm_eval.is_task(entry.name) for entry in recipe.benchmarks):
            expected = "a recipe of their own for tasks of lm-eval, with options: gen_kwargs"
            raise UserError(f"{where}: {key}", "does not reach lm_eval/TASK", expected)
    for k in recipe.pass_at:
        if k > recipe.samples:
            raise UserError(f"{where}: pass_at", f"found {k}", f"at most {recipe.samples} samples")
    return recipe


def prepare(data: dict[str, Any], where: str) -> Ready:
    """Check everything a user can get wrong: models, data, groups. Raises UserError."""
    recipe = check_shape(data, where)
    if not recipe.benchmarks and not recipe.text:
        raise UserError(where, "nothing to measure", "benchmarks or text", "smelt ls benchmark")
    models: dict[str, ModelEntry] = {}
    papers: dict[str, Paper | None] = {}
    for name, model in recipe.models.items():
        if not name or "/" in name or name.startswith("."):
            raise UserError(f"{where}: models.{name}", "no plain name", "a name without '/'")
        models[name] = entry_of(model)
        papers[name] = check_model(models[name], f"{where}: models.{name}")
        if recipe.text and models[name].backend != "transformers":
            found = f"model '{name}' behind {models[name].backend}"
            expected = "the transformers backend, which likelihoods of texts need"
            raise UserError(f"{where}: text", found, expected)
    exams: list[tuple[BenchmarkEntry, Exam | None]] = []
    groups: set[str] = set()
    shown: dict[int, Path] = {}
    for index, entry in enumerate(recipe.benchmarks):
        place = f"{where}: benchmarks[{index}]"
        exam = None if lm_eval.is_task(entry.name) else read_exam(entry, place)
        rows = set(exam.groups) if exam else {entry.name.replace("/", ":")}
        if repeated := sorted(groups & rows):
            raise UserError(place, f"'{repeated[0]}' stands twice", "once")
        groups |= rows
        exams.append((entry, exam))
        if exam is None:
            lm_eval.check_task(entry, place, unsafe_code=recipe.unsafe_code)
            continue
        solved = 0
        for name, paper in papers.items():
            if paper is None:
                solved += len(exam.pool)
            else:
                spot = f"{where}: models.{name}, benchmarks[{index}]"
                sheet = write_sheet(exam, paper, spot, max_new_tokens=recipe.max_new_tokens)
                solved += max(sheet.shots)
        if any(form.job is not None for form in exam.benchmark.forms.values()):
            code.isolation(unsafe=recipe.unsafe_code)
        if solved and exam.shots_path is not None:
            shown[index] = exam.shots_path
    _check_rows(recipe, groups, where)
    for path in recipe.text.values():
        read_text(Path(path), where)
    return Ready(recipe, models, exams, shown, where)


def check_device(ready: Ready, device: str) -> None:
    """Raise UserError for a device that is not there, or that no model here would run on."""
    pick_device(device)
    if device not in ("cpu", "auto") and not any(map(takes_device, ready.models.values())):
        backends = ", ".join(sorted({entry.backend for entry in ready.models.values()}))
        raise UserError("--device", f"'{device}', which {backends} does not take", "no --device")


def _check_rows(recipe: EvalRecipe, groups: set[str], where: str) -> None:
    """Rows that groups and combined skills name must be there (which tasks a group of lm-eval has
    is known later)."""
    theirs = any(row.startswith("lm_eval:") for row in groups)
    for key, named in (("groups", recipe.groups), ("combined", recipe.combined)):
        for name, members in named.items():
            asked = {*members, name} if key == "combined" else set(members)
            lm_rows = {row for row in asked if row.startswith("lm_eval:")} if theirs else set()
            if unknown := sorted(asked - groups - lm_rows):
                found = f"unknown row '{unknown[0]}'"
                raise UserError(f"{where}: {key}.{name}", found, str(sorted(groups)))


def describe(ready: Ready) -> list[str]:
    """Lines about what would be asked."""
    lines = []
    for entry, exam in ready.exams:
        if exam is None:
            lines.append(f"{entry.name}: a task of lm-evaluation-harness")
            continue
        for group in exam.groups:
            count = sum(item.group == group for item in exam.items)
            lines.append(f"{entry.name}: {group}, {count} items")
    for name, path in ready.recipe.text.items():
        lines.append(f"text {name}: {len(read_text(Path(path), ready.where))} texts")
    return [*lines, f"{len(ready.models)} models"]


def inputs_of(ready: Ready) -> dict[str, str]:
    """Files and folders that the scores depend on."""
    inputs = {}
    for name, entry in ready.models.items():
        if (path := input_of(entry)) is not None:
            inputs[f"models.{name}"] = str(path)
    for index, (_, exam) in enumerate(ready.exams):
        if exam is not None:
            inputs[f"benchmarks.{index}"] = str(exam.path)
    inputs |= {f"benchmarks.{index}.shots": str(path) for index, path in ready.shown.items()}
    return inputs | {f"text.{name}": path for name, path in ready.recipe.text.items()}


def evaluate(ready: Ready, run: Run, *, device: str, seed: int) -> None:
    """Ask all models everything and note the scores in the run's record."""
    recipe = ready.recipe
    drawing = Drawing(recipe.samples, recipe.temperature, recipe.top_p, seed)
    scores: dict[str, dict[str, Any]] = {}
    likelihoods: dict[str, Any] = {}
    floors: dict[str, float] = {}
    single: dict[str, dict[str, Scored]] = {}
    with Store.open(None if recipe.cache else run.folder / "answers.sqlite") as store:
        for name, entry in ready.models.items():
            place = f"{ready.where}: models.{name}"
            backend = open_backend(entry, device=device, batch_size=recipe.batch_size)
            try:
                scores[name], single[name] = {}, {}
                for benchmark, exam in ready.exams:
                    label = f"eval {name}: {benchmark.name}"
                    samples = run.folder / "samples" / name
                    if exam is None:
                        cells = lm_eval.run_task(
                            backend, benchmark, where=place, store=store, samples_folder=samples,
                            seed=seed, limit=benchmark.limit, unsafe_code=recipe.unsafe_code,
                        )  # fmt: skip
                        scores[name] |= cells
                        for row, cell in cells.items():
                            # A gain would read as a loss: what compares takes more for better.
                            if not cell.get("lower_is_better"):
                                single[name][row] = read_scores(samples / f"{row}.jsonl")
                        continue
                    sheet = write_sheet(exam, backend, place, max_new_tokens=recipe.max_new_tokens)
                    found = answer_sheet(exam, sheet, backend, store, drawing=drawing,
                                         unsafe_code=recipe.unsafe_code, label=label)  # fmt: skip
                    for group in exam.groups:
                        own = [mark for mark in found if mark.item.group == group]
                        single[name][group] = scores_of(own)
                        write_samples(samples / f"{group}.jsonl", own)
                        floors[group] = majority([m.item for m in own if not m.sample])
                    scores[name] |= cells_of(
                        exam, sheet, found, pass_at=recipe.pass_at, unsafe_code=recipe.unsafe_code
                    )
                likelihoods[name] = _texts(backend, ready, name)
            finally:
                backend.close()
    if not recipe.cache:
        (run.folder / "answers.sqlite").unlink(missing_ok=True)
    run.note(scores=scores, likelihood=likelihoods, majority=floors)
    run.note(groups=recipe.groups, roles=recipe.roles)
    if found_pairs := comparisons(single, [(first, second) for first, second in recipe.compare]):
        run.note(comparisons=found_pairs)
    if found_gains := gains(single, dict(recipe.roles), _pairs(ready)):
        run.note(combined=found_gains)


def _pairs(ready: Ready) -> dict[str, list[str]]:
    """Combined skills that the recipe names, and those that a benchmark's items name themselves."""
    pairs = dict(ready.recipe.combined)
    for _, exam in ready.exams:
        for item in exam.items if exam else []:
            skills = item.meta.get("skills")
            if isinstance(skills, list) and len(skills) > 1:
                pairs.setdefault(item.group, [str(skill) for skill in skills])
    return pairs


def _texts(backend: Backend, ready: Ready, name: str) -> dict[str, Any]:
    found = {}
    for text, path in ready.recipe.text.items():
        model, tokenizer = network_and_tokenizer(backend)
        texts = read_text(Path(path), ready.where)
        found[text] = likelihood(model, tokenizer, texts, backend.context, f"eval {name}: {text}")
    return found
