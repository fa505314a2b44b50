"""ARC-Challenge: grade-school science questions with four options. (arXiv:1803.05457)"""

from smelt.evals import choices
from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row
from smelt.evals.reading import letter_rule


def _item(row: Row) -> Item:
    return choices.choice_item(row, "arc_challenge")


arc_challenge = Benchmark(
    version=1,
    source="https://allenai.org/data/arc, arXiv:1803.05457",
    licence="CC-BY-SA-4.0",
    splits={"train": 1119, "validation": 299, "test": 1172},
    test_split="test",
    fitness_split="validation",
    shots_split="train",
    item=_item,
    forms={
        "chat": Form(ask=choices.chat_ask, rules={"letter": letter_rule}, max_new_tokens=1024),
        "base": Form(
            ask=choices.text_ask,
            options=choices.text_options,
            per_character=True,
            shots=25,
            example=choices.text_example,
        ),
    },
    hub=Hub(
        "allenai/ai2_arc",
        {"train": "train", "validation": "validation", "test": "test"},
        choices.from_labels,
        ("ARC-Challenge",),
    ),
)
