"""Which of our benchmarks is which task of lm-eval, and the outputs that both are given."""

import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smelt.core import registry
from smelt.evals.benchmark import Benchmark, Item
from smelt.evals.rows import _solved
from tests.evals import lmeval_texts as texts

Row = dict[str, Any]
Rows = dict[str, list[Row]]

SEED = 4
WHOLE, PER_CHARACTER = "likelihood", "likelihood_per_character"


@dataclass(frozen=True)
class Case:
    """One lm-eval task beside one of our benchmarks.

    doc: a row of ours -> the document of lm-eval's hub; splits: lm-eval's split -> our file;
    rules: name of our reading -> (filter, metric) of lm-eval; keep: the rows of this task;
    beside: the same for a score of ours that is meant to read more; write: (row, rows, generator)
    -> an output; stop: lm-eval's stop texts; docs, each: how many documents, outputs of each.
    """

    benchmark: str
    task: str
    folder: str
    doc: Callable[[Row], Row]
    rules: dict[str, tuple[str, str]]
    write: Callable[[Row, list[Row], random.Random], Any]
    splits: dict[str, str] = field(default_factory=lambda: {"test": "test"})
    keep: Callable[[Row], bool] = lambda row: True
    docs: int = 40
    each: int = 6
    without: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    beside: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def asked(self) -> str:
        """Our file with the questions: the first of the splits."""
        return next(iter(self.splits.values()))


def read(data: Path, benchmark: str, split: str) -> list[Row]:
    """Rows of a data file of ours."""
    with gzip.open(data / benchmark / f"{split}.jsonl.gz", "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def _gsm8k(row: Row) -> Row:
    return {"question": row["question"], "answer": f"{row['solution']}\n#### {row['answer']}"}


def _bbh(row: Row) -> Row:
    return {"input": row["question"], "target": row["answer"]}


def _humaneval(row: Row) -> Row:
    return {"task_id": row["id"], "prompt": row["question"], "test": row["tests"],
            "entry_point": row["entry_point"], "canonical_solution": row["solution"]}  # fmt: skip


def _mbpp(row: Row) -> Row:
    return {"task_id": row["id"], "text": row["question"], "code": row["solution"],
            "test_list": row["tests"]}  # fmt: skip


def _mmlu(row: Row) -> Row:
    return {"question": row["question"], "choices": row["choices"], "answer": row["answer_index"],
            "subject": row["subject"]}  # fmt: skip


def _mmlu_pro(row: Row) -> Row:
    return {"question": row["question"], "options": row["choices"], "answer": row["answer"],
            "answer_index": row["answer_index"], "category": row["subject"],
            "cot_content": row.get("solution", "")}  # fmt: skip


def _arc(row: Row) -> Row:
    letters = list("ABCDEFGHIJ"[: len(row["choices"])])
    return {"question": row["question"], "answerKey": row["answer"],
            "choices": {"text": row["choices"], "label": letters}}  # fmt: skip


def _boolq(row: Row) -> Row:
    passage, _, question = row["question"].removeprefix("Passage: ").partition("\nQuestion: ")
    return {
        "passage": passage,
        "question": question.removesuffix("?"),
        "label": row["answer_index"],
    }


def _winogrande(row: Row) -> Row:
    first, second = row["choices"]
    head = 0
    while first[: head + 1] == second[: head + 1]:
        head += 1
    head = first[:head].rfind(" ") + 1
    return {"sentence": f"{first[:head]}_ {row['question']}", "option1": first[head:],
            "option2": second[head:], "answer": str(row["answer_index"] + 1)}  # fmt: skip


def _drop(row: Row) -> Row:
    passage, _, question = row["question"].removeprefix("Passage: ").partition("\nQuestion: ")
    # What lm-eval's process_docs makes of the hub's answers: spans of each accepted answer.
    return {"passage": passage, "question": question, "answer": [row["answer"]],
            "answers": [[alias] for alias in row["meta"]["aliases"]]}  # fmt: skip


def _choices(row: Row, _: list[Row], rng: random.Random) -> list[tuple[float, bool]]:
    return texts.likelihoods(len(row["choices"]), rng)


def _word_problem(row: Row, _: list[Row], rng: random.Random) -> str:
    return texts.word_problem(row["answer"], row["solution"], rng)


def _reasoned(row: Row, rows: list[Row], rng: random.Random) -> str:
    return texts.reasoned(row["answer"], [other["answer"] for other in rows], rng)


def _completed(row: Row, _: list[Row], rng: random.Random) -> str:
    return texts.completed(row["solution"], row["question"], row["entry_point"], rng)


def _programmed(row: Row, _: list[Row], rng: random.Random) -> str:
    return texts.programmed(row["solution"], rng)


def _chosen(row: Row, _: list[Row], rng: random.Random) -> str:
    return texts.chosen(row["answer"], "ABCDEFGHIJ"[: len(row["choices"])], rng)


def _spans(row: Row, rows: list[Row], rng: random.Random) -> str:
    return texts.spans(row["meta"]["aliases"], [other["answer"] for other in rows], rng)


def of_subject(name: str) -> Callable[[Row], bool]:
    """Rows of a subject."""
    return lambda row: row["subject"] == name


ACC, ACC_NORM = ("none", "acc"), ("none", "acc_norm")
# Subjects of MMLU with names and texts of all kinds; of MMLU-Pro all.
MMLU = ["abstract_algebra", "high_school_government_and_politics", "moral_scenarios",
        "professional_law", "us_foreign_policy", "formal_logic"]  # fmt: skip


def fixed() -> dict[str, Case]:
    """The tasks that have no subjects."""
    return {
        "gsm8k": Case(
            "gsm8k", "gsm8k", "gsm8k", _gsm8k,
            {"strict-match": ("strict-match", "exact_match"),
             "flexible-extract": ("flexible-extract", "exact_match")},
            _word_problem, {"test": "test", "train": "train"}, docs=60, each=12,
            stop=("Question:", "</s>", "<|im_end|>"),
            beside={"number": ("flexible-extract", "exact_match")},
        ),
        "humaneval": Case(
            "humaneval", "humaneval", "humaneval", _humaneval, {"job": ("create_test", "pass@1")},
            _completed, docs=120, each=2, stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
        ),
        "mbpp": Case(
            "mbpp", "mbpp", "mbpp", _mbpp, {"job": ("none", "pass_at_1")}, _programmed,
            docs=120, each=2, stop=("[DONE]",),
        ),
        "arc_challenge": Case(
            "arc_challenge", "arc_challenge", "arc", _arc, {WHOLE: ACC, PER_CHARACTER: ACC_NORM},
            _choices, {"test": "test", "validation": "validation", "train": "validation"},
            docs=300, each=1,
        ),
        "boolq": Case(
            "boolq", "boolq", "super_glue/boolq", _boolq, {WHOLE: ACC}, _choices,
            {"validation": "test", "train": "test"}, docs=100, each=2,
        ),
        "winogrande": Case(
            "winogrande", "winogrande", "winogrande", _winogrande, {WHOLE: ACC}, _choices,
            {"validation": "test", "train": "test"}, docs=100, each=2,
        ),
        "drop": Case(
            "drop", "drop", "drop", _drop, {"em": ("none", "em"), "f1": ("none", "f1")}, _spans,
            {"validation": "validation", "train": "validation"}, docs=100, each=8,
            without=("process_docs",), stop=(".",),
        ),
    }  # fmt: skip


def per_subject(benchmark: str, subject: str) -> Case:
    """The task of a subject, where lm-eval has one for each."""
    if benchmark == "bbh":
        return Case(
            "bbh", f"bbh_cot_fewshot_{subject}", "bbh/cot_fewshot", _bbh,
            {"get-answer": ("get-answer", "exact_match")}, _reasoned, keep=of_subject(subject),
            docs=4, each=6, stop=("</s>", "Q", "\n\n"),
            beside={"phrase": ("get-answer", "exact_match")},
        )  # fmt: skip
    if benchmark == "mmlu":
        return Case(
            "mmlu", f"mmlu_{subject}", "mmlu/default", _mmlu, {WHOLE: ACC}, _choices,
            {"test": "test", "dev": "dev"}, of_subject(subject), docs=40, each=1,
        )  # fmt: skip
    return Case(
        "mmlu_pro", f"mmlu_pro_{subject.replace(' ', '_')}", "mmlu_pro", _mmlu_pro,
        {"custom-extract": ("custom-extract", "exact_match")}, _chosen,
        {"test": "test", "validation": "validation"}, of_subject(subject), docs=5, each=5,
        stop=("Question:",), beside={"letter": ("custom-extract", "exact_match")},
    )  # fmt: skip


def cases(data: Path) -> dict[str, Case]:
    """Every case: MMLU on some subjects, BBH and MMLU-Pro on all."""
    found = fixed()
    for name in ("bbh", "mmlu", "mmlu_pro"):
        subjects = MMLU
        if name != "mmlu":
            subjects = sorted({row["subject"] for row in read(data, name, "test")})
        found |= {f"{name}/{subject}": per_subject(name, subject) for subject in subjects}
    return found


def spread(rows: list[Row], count: int) -> list[Row]:
    """Rows evenly over a file, at most `count`."""
    step = max(1, len(rows) // count)
    return rows[::step][:count]


def material(case: Case, data: Path) -> tuple[list[Row], list[list[Any]]]:
    """The rows of a case and the outputs for each, by its seed; an output that the two cut apart
    comes a second time as both leave it."""
    every = [row for row in read(data, case.benchmark, case.asked) if case.keep(row)]
    rows = spread(every, case.docs)
    outputs = []
    for row in rows:
        rng = random.Random(f"{SEED} {case.task} {row['id']}")
        outputs.append(with_shared([case.write(row, every, rng) for _ in range(case.each)], case))
    return rows, outputs


def cut(text: str, stops: tuple[str, ...]) -> str:
    """A text up to the first of some stop texts."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


def our_stop(case: Case) -> tuple[str, ...]:
    """The stop texts of our base form."""
    return load(case.benchmark).forms["base"].stop


def with_shared(outputs: list[Any], case: Case) -> list[Any]:
    """Outputs, and each that is cut apart as what both leave of it."""
    ours = our_stop(case)
    apart = [text for text in outputs
             if isinstance(text, str) and cut(text, ours) != cut(text, case.stop)]  # fmt: skip
    return outputs + [cut(text, ours + case.stop) for text in apart]


def shown_rows(case: Case, data: Path, asked: list[Row]) -> list[Row]:
    """Rows for solved examples, none of them asked: of the last split, as ours take them."""
    if case.benchmark == "bbh":
        return [row for text in read(data, "bbh", "cot_prompts") if case.keep(text)
                for row in _solved(text)]  # fmt: skip
    if case.benchmark == "mbpp":
        # The first is no item: the paper shows 2, 3 and 4.
        return read(data, "mbpp", "prompt")[1:]
    ids = {row["id"] for row in asked}
    rows = read(data, case.benchmark, list(case.splits.values())[-1])
    return [row for row in rows if case.keep(row) and row["id"] not in ids][:40]


def job(case: Case, file: Path, rows: list[Row], shown: list[Row]) -> dict[str, Any]:
    """What lmeval_runs.py needs for lm-eval's task on these rows; writes FILE-SPLIT.jsonl."""
    files = {}
    for place, split in enumerate(case.splits):
        path = file.with_name(f"{file.name}-{split}.jsonl")
        docs = [case.doc(row) for row in (shown if place else rows)]
        path.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        files[split] = str(path)
    return {"task": case.task, "folder": case.folder, "files": files,
            "without": list(case.without)}  # fmt: skip


def items(benchmark: Benchmark, rows: list[Row]) -> Iterator[Item]:
    """Rows as our items."""
    for row in rows:
        item = benchmark.item(row)
        assert item is not None
        yield item


def load(name: str) -> Benchmark:
    """One of our benchmarks."""
    found: Benchmark = registry.load("benchmark", name)
    return found
