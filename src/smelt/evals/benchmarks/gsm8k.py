"""GSM8K: grade-school word problems, the last number of the answer. (arXiv:2110.14168)"""

from collections.abc import Iterator
from pathlib import Path

from smelt.core.errors import UserError
from smelt.data.document import parse_row, read_lines
from smelt.evals.benchmark import Benchmark, Item
from smelt.verify import number


def _read(path: Path) -> Iterator[Item]:
    for line_number, line in read_lines(path):
        try:
            row = parse_row(line)
            question, gold = str(row["question"]), str(row["answer"])
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{path}:{line_number}", "no question and answer", "JSONL rows"
            ) from error
        if (answer := number.last(gold)) is None:
            raise UserError(f"{path}:{line_number}", f"answer {gold!r} has no number", "a number")
        name = str(row.get("id", line_number))
        yield Item(name, "gsm8k", f"Question: {question}\nAnswer:", gold, {"answer": str(answer)})


def _score(answer: str, item: Item) -> tuple[bool, str]:
    return number.score(answer, item.gold)


gsm8k = Benchmark(
    version=1,
    test_split="test",
    fitness_split="train",
    read=_read,
    score=_score,
    max_new_tokens=256,
    stop=("Question:",),
)
