"""Benchmarks as the fitness of a search: their fitness splits only, scored item by item."""

from dataclasses import replace

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.data.document import normalize
from smelt.evals.benchmark import Benchmark, Item
from smelt.evals.exam import Exam, Sheet, read_exam, write_sheet
from smelt.evals.harness import Drawing, answer_sheet
from smelt.evals.recipe import BenchmarkEntry
from smelt.evals.rows import split_of
from smelt.models.backend import Backend
from smelt.search.recipe import Fitness


def fitness_exams(fitness: Fitness, where: str, *, split: str = "fitness") -> list[Exam]:
    """The exams of a fitness on their fitness splits, or (`split="test"`) on their test splits.

    Raises UserError for a fitness split that is a link to the test split.
    """
    exams = []
    for name in fitness.benchmarks:
        benchmark: Benchmark = registry.load("benchmark", name)
        chosen = benchmark.fitness_split if split == "fitness" else benchmark.test_split
        entry = BenchmarkEntry(
            name=name, data=fitness.folder, split=chosen, form=fitness.form,
            limit=fitness.limit if split == "fitness" else None,
        )  # fmt: skip
        exam = read_exam(entry, f"{where}: benchmarks.{name}")
        if split == "fitness" and split_of(exam.path.resolve()) == benchmark.test_split:
            raise UserError(
                f"{where}: benchmarks.{name}", f"{exam.path} leads to a test split",
                "rows that no test will ask",
            )  # fmt: skip
        exams.append(exam)
    return exams


def exam_weights(exams: list[Exam], weights: dict[str, float]) -> tuple[list[str], list[float]]:
    """Benchmark and weight of every item: a benchmark's share of the whole, for each item alike."""
    whole = sum(weights.values())
    names, shares = [], []
    for exam in exams:
        name, count = exam.entry.name, len(exam.items)
        names += [name] * count
        shares += [weights[name] / whole / count] * count
    return names, shares


def refuse_test_items(exam: Exam, test: Exam, where: str) -> None:
    """Raise UserError when a question of the fitness split, with its choices in any order, also
    stands in the test split."""
    asked = {_asked(item) for item in test.items}
    for item in exam.items:
        if _asked(item) in asked:
            raise UserError(
                where, f"item {item.id} of {exam.path} also stands in {test.path}",
                "rows that no test will ask", "leave out what both have, or a smaller limit",
            )  # fmt: skip


def _asked(item: Item) -> tuple[str, ...]:
    """Words such as "which is an opinion?" are another question with other choices."""
    return normalize(item.question), *sorted(map(normalize, item.choices))


class BenchmarkFitness:
    """Scores and lengths of a model's answers to the items of several exams, one after another.

    names: the benchmark of each item; weights: its share of the whole.
    """

    def __init__(
        self,
        exams: list[Exam],
        backend: Backend,
        weights: dict[str, float],
        where: str,
        *,
        max_new_tokens: int | None = None,
    ) -> None:
        """Prompts are written once. Raises UserError when none fits the model's context."""
        self.exams, self.backend = exams, backend
        self.sheets = [
            write_sheet(exam, backend, where, max_new_tokens=max_new_tokens) for exam in exams
        ]
        self.places = [(n, i) for n, exam in enumerate(exams) for i in range(len(exam.items))]
        self.names, self.weights = exam_weights(exams, weights)

    def __call__(self, items: list[int]) -> tuple[list[float], list[float]]:
        """The score of each of these items for the model as it is now, and minus its length."""
        found: dict[int, tuple[float, float]] = {}
        for number, (exam, sheet) in enumerate(zip(self.exams, self.sheets, strict=True)):
            own = [item for item in items if self.places[item][0] == number]
            if not own:
                continue
            inside = [self.places[item][1] for item in own]
            part = replace(exam, items=[exam.items[i] for i in inside])
            marks = answer_sheet(
                part, _part(sheet, inside), self.backend, None,
                drawing=Drawing(), unsafe_code=False, label="",
            )  # fmt: skip
            for item, mark in zip(own, marks, strict=True):
                found[item] = (mark.score, -float(mark.num_tokens))
        pairs = [found[item] for item in items]
        return [score for score, _ in pairs], [length for _, length in pairs]


def _part(sheet: Sheet, inside: list[int]) -> Sheet:
    return replace(
        sheet,
        prompts=[sheet.prompts[i] for i in inside],
        budgets=[sheet.budgets[i] for i in inside],
        shots=[sheet.shots[i] for i in inside],
    )
