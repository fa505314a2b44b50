"""A backend that answers from a table, and benchmarks around it: no network is needed."""

from collections.abc import Callable
from dataclasses import dataclass, field

from smelt.evals.benchmark import Benchmark, Form, Item, Row
from smelt.evals.exam import Exam
from smelt.evals.recipe import BenchmarkEntry
from smelt.models.backend import Likelihood, Message, Query, Request, Written


@dataclass
class FakeBackend:
    """Tokens are characters. answer: what is written for a prompt; nats: of (prompt, option)."""

    answer: Callable[[Request], str] = lambda request: ""
    nats: Callable[[Query], float] = lambda query: 0.0
    context: int = 1000
    template: bool = False
    identity: str = "fake"
    asked: list[Request] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)

    def chat(self, messages: list[Message]) -> str | None:
        text = "".join(f"<{m['role']}>{m['content']}" for m in messages)
        return f"{text}<assistant>" if self.template else None

    def num_tokens(self, texts: list[str]) -> list[int]:
        return list(map(len, texts))

    def write(
        self, requests: list[Request], done: Callable[[list[int], list[Written]], None], label: str
    ) -> None:
        self.asked += requests
        made = []
        for request in requests:
            text, cut = self.answer(request), False
            for mark in request.stop:
                text = text.partition(mark)[0]
            if len(text) > request.max_new_tokens:
                text, cut = text[: request.max_new_tokens], True
            made.append(Written(text, len(text), not cut))
        done(list(range(len(requests))), made)

    def likelihood(
        self, queries: list[Query], done: Callable[[list[int], list[Likelihood]], None], label: str
    ) -> None:
        self.queries += queries
        found = [Likelihood(self.nats(q), len(q.continuation), False) for q in queries]
        done(list(range(len(queries))), found)

    def close(self) -> None:
        pass


def sum_item(row: Row) -> Item:
    """A row {id, question, answer}."""
    return Item(row["id"], "sums", row["question"], f"It is {row['answer']}.", row["answer"],
                subject=row.get("subject", ""))  # fmt: skip


def last_word(answer: str, item: Item) -> tuple[float, str]:
    """Right, wrong, or nothing there."""
    words = answer.rstrip(".").split()
    if not words:
        return 0.0, "empty"
    right = words[-1] == item.answer
    return float(right), "right" if right else "wrong_answer"


def anywhere(answer: str, item: Item) -> tuple[float, str]:
    """A laxer rule."""
    found = item.answer in answer
    return float(found), "right" if found else "wrong_answer"


WRITTEN = Form(
    ask=lambda item: f"Q: {item.question} A:",
    rules={"last": last_word, "anywhere": anywhere},
    example=lambda item: f"Q: {item.question} A: {item.gold}",
    shots=2,
    between="\n",
    before=lambda item: "Sums.\n",
    max_new_tokens=20,
    stop=("Q:",),
)
CHAT = Form(ask=lambda item: item.question, rules={"last": last_word}, max_new_tokens=30)
SUMS = Benchmark(
    version=1, source="tests", licence="none", splits={"test": 3, "train": 4}, test_split="test",
    fitness_split="train", item=sum_item, forms={"chat": CHAT, "base": WRITTEN},
    shots_split="train",
)  # fmt: skip


def exam(items: list[Item], pool: list[Item] | None = None, *, benchmark: Benchmark = SUMS,
         **entry: object) -> Exam:  # fmt: skip
    """An exam without files."""
    from pathlib import Path

    made = BenchmarkEntry.model_validate({"name": "sums", **entry})
    return Exam(made, benchmark, Path("test.jsonl"), items, pool or [])


def sums(count: int, subject: str = "") -> list[Item]:
    """Items `n+n`, answers 2n."""
    rows = [{"id": f"{subject}{n}", "question": f"{n}+{n}", "answer": str(2 * n),
             "subject": subject} for n in range(count)]  # fmt: skip
    return [sum_item(row) for row in rows]
