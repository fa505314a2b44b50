"""A benchmark as it is put to one model: which items, in which form, with which examples."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.evals.benchmark import Benchmark, Form, Item
from smelt.evals.recipe import BenchmarkEntry
from smelt.evals.rows import find_data, find_shots, read_items, read_shots
from smelt.models.backend import Message

# An answer is given at least this much room (or its budget): below it, examples are left out.
LEAST_ROOM = 64
# What an answer may be longer than the longest gold text, in tokens, where that decides.
SLACK = 8


@dataclass(frozen=True)
class Exam:
    """A benchmark with the items that were asked for, and the pool of solved examples (read from
    `shots_path`)."""

    entry: BenchmarkEntry
    benchmark: Benchmark
    path: Path
    items: list[Item]
    pool: list[Item]
    shots_path: Path | None = None

    @property
    def groups(self) -> list[str]:
        """Rows of the score table, in order."""
        return sorted({item.group for item in self.items})


@dataclass(frozen=True)
class Sheet:
    """The questions of an exam as one model reads them, item by item.

    prompts: None where a question does not fit the model's context; budgets: new tokens that an
    answer may take; shots: solved examples in each prompt.
    """

    form_name: str
    form: Form
    prompts: list[str | None]
    budgets: list[int]
    shots: list[int]


def read_exam(entry: BenchmarkEntry, where: str) -> Exam:
    """Find and read the data of a benchmark. Raises UserError when there is nothing to ask."""
    benchmark: Benchmark = registry.load("benchmark", entry.name)
    check_form(entry, benchmark, where)
    path = find_data(entry.name, benchmark, entry.data, entry.split, where)
    items = read_items(benchmark, path, entry.limit, entry.only, where)
    most = max(entry.shots if entry.shots is not None else form.shots
               for form in benchmark.forms.values())  # fmt: skip
    pool = read_shots(entry.name, benchmark, path, where, most=most + 1) if most else []
    shots_path = find_shots(entry.name, benchmark, path) if pool else None
    return Exam(entry, benchmark, path, items, pool, shots_path)


def check_form(entry: BenchmarkEntry, benchmark: Benchmark, where: str) -> None:
    """Raise UserError for a form that the benchmark does not have."""
    if entry.form not in ("auto", *benchmark.forms):
        found = f"{entry.name} has no form '{entry.form}'"
        raise UserError(f"{where}: form", found, f"one of: auto, {', '.join(benchmark.forms)}")


def form_of(exam: Exam, has_template: bool, where: str) -> tuple[str, Form]:
    """The form in which a model is asked. Raises UserError for chat without a template."""
    forms, wanted = exam.benchmark.forms, exam.entry.form
    if wanted == "chat" and not has_template:
        raise UserError(where, "a model without a chat template", "form: base")
    if wanted == "auto":
        wanted = "chat" if (has_template and "chat" in forms) or "base" not in forms else "base"
    return wanted, forms[wanted]


def examples(pool: list[Item], item: Item, count: int) -> list[Item]:
    """The first `count` of the pool, of the item's subject where the pool has it, never itself."""
    others = [one for one in pool if one.id != item.id or one.question != item.question]
    same = [one for one in others if one.subject == item.subject]
    return (same or others)[:count]


def text_of(form: Form, item: Item, shown: list[Item]) -> str:
    """Description, solved examples and the question, as plain text."""
    assert form.example is not None or not shown
    solved = [form.example(one) for one in shown] if form.example else []
    before = form.before(item) if form.before else ""
    return before + form.between.join([*solved, form.ask(item)])


@runtime_checkable
class Paper(Protocol):
    """What prompts are written for: a backend, or the tokenizer of one that is not loaded yet."""

    @property
    def context(self) -> int: ...

    def chat(self, messages: list[Message]) -> str | None: ...

    def num_tokens(self, texts: list[str]) -> list[int]: ...


def write_sheet(
    exam: Exam, backend: Paper, where: str, *, max_new_tokens: int | None = None
) -> Sheet:
    """The prompts of an exam for one model, with as many examples as fit its context.

    Raises UserError when not a single question fits.
    """
    template = backend.chat([{"role": "user", "content": "?"}]) is not None
    name, form = form_of(exam, template, where)
    wanted = exam.entry.shots if exam.entry.shots is not None else form.shots
    chat = name == "chat"
    if wanted and form.example is None:
        found = f"shots: {wanted} in the {name} form of {exam.entry.name}, which shows no examples"
        more = [other for other, one in exam.benchmark.forms.items() if one.example is not None]
        raise UserError(where, found, " or ".join(["shots: 0", *(f"form: {one}" for one in more)]))
    if wanted and not exam.pool:
        name = exam.entry.name
        raise UserError(
            where, f"no solved examples of {name} ({exam.benchmark.shots_split}) beside its data",
            "them, or shots: 0", f"smelt fetch {name}",
        )  # fmt: skip
    budget = max_new_tokens or form.max_new_tokens
    if form.follow_gold and max_new_tokens is None:
        longest = max(backend.num_tokens([item.gold for item in exam.items]))
        budget = longest + SLACK if longest > budget else budget
    least = min(budget, LEAST_ROOM)
    if form.options is not None:
        ends = [" " + max(form.options(item), key=len) for item in exam.items]
        least = max(backend.num_tokens(ends))
    prompts: list[str | None] = [None] * len(exam.items)
    budgets, shots = [budget] * len(exam.items), [0] * len(exam.items)
    left = list(range(len(exam.items)))
    for count in range(wanted, -1, -1):
        shown = [examples(exam.pool, exam.items[index], count) for index in left]
        texts = [text_of(form, exam.items[i], own) for i, own in zip(left, shown, strict=True)]
        if chat:
            texts = [backend.chat([{"role": "user", "content": one}]) or "" for one in texts]
        rest = []
        sizes = backend.num_tokens(texts)
        for index, text, own, size in zip(left, texts, shown, sizes, strict=True):
            if size + least > backend.context:
                rest.append(index)
                continue
            prompts[index], shots[index] = text, len(own)
            budgets[index] = min(budget, backend.context - size)
        left = rest
        if not left:
            break
    if len(left) == len(exam.items):
        found = f"no question of {exam.entry.name} fits with its answer"
        raise UserError(where, found, f"a context of more than {backend.context} tokens")
    return Sheet(name, form, prompts, budgets, shots)


def plain_shots(sheet: Sheet, exam: Exam) -> list[str]:
    """What stands before each question of a form whose options have contexts of their own."""
    made = []
    for item, count in zip(exam.items, sheet.shots, strict=True):
        bare = replace(sheet.form, ask=lambda _: "")
        made.append(text_of(bare, item, examples(exam.pool, item, count)))
    return made
