"""Combined skills: tasks that need two skills, one after the other, and each skill alone; made.

A task has two problems; the second takes the answer to the first, so both must be solved. Its twins
ask the same two problems alone. Made from a seed by `smelt.evals.skills`, so nobody has seen it.
Groups: a skill (`trace`) or a pair of them (`arithmetic+trace`, both orders alike).
"""

from typing import Any

from smelt.core.seed import seed_for
from smelt.evals.benchmark import Benchmark, Form, Item
from smelt.evals.reading import number_rule
from smelt.evals.skills import algebra, arithmetic, calendar, lists, logic, strings, trace
from smelt.evals.skills.compose import Make, make_rows
from smelt.evals.word_problem import ask

SKILLS: dict[str, Make] = {
    "algebra": algebra.make,
    "arithmetic": arithmetic.make,
    "calendar": calendar.make,
    "lists": lists.make,
    "logic": logic.make,
    "strings": strings.make,
    "trace": trace.make,
}
COUNTS = {"test": 100, "fitness": 20}  # rows of each skill and of each pair
GROUPS = len(SKILLS) + len(SKILLS) * (len(SKILLS) - 1) // 2


def make(seed: int) -> dict[str, list[dict[str, Any]]]:
    """All rows of both splits; no piece stands in both."""
    seen: set[str] = set()
    return {
        split: make_rows(SKILLS, count, seed_for(seed, "combined", split), seen)
        for split, count in COUNTS.items()
    }


def _item(row: dict[str, Any]) -> Item:
    meta = dict(row["meta"])
    group, answer = str(meta.pop("group")), str(row["answer"])
    int(answer)
    return Item(
        id=str(row["id"]),
        group=group,
        question=str(row["question"]),
        gold=str(row["solution"]),
        answer=answer,
        subject=str(row["subject"]),
        meta=meta,
    )


CHAT = '\n\nSolve it step by step, and end with "The answer is" and the number.'

combined = Benchmark(
    version=1,
    source="made by smelt (evals/skills), after the claim of arXiv:2410.13699",
    licence="Apache-2.0",
    splits={split: count * GROUPS for split, count in COUNTS.items()},
    test_split="test",
    fitness_split="fitness",
    shots_split="fitness",
    make=make,
    item=_item,
    forms={
        "chat": Form(
            ask=lambda item: item.question + CHAT,
            rules={"last_number": number_rule},
            max_new_tokens=768,
        ),
        "base": Form(
            ask=ask,
            example=lambda item: f"{ask(item)} {item.gold}",
            shots=4,
            rules={"last_number": number_rule},
            max_new_tokens=256,
            stop=("Question:",),
        ),
    },
)
