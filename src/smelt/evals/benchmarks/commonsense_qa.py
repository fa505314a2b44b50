"""CommonsenseQA: everyday questions with five options. (arXiv:1811.00937)"""

from smelt.evals import choices
from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row
from smelt.evals.reading import letter_rule


def _item(row: Row) -> Item:
    return choices.choice_item(row, "commonsense_qa")


def _ask(item: Item) -> str:
    return f"Question: {choices.letters_ask(item)}"


commonsense_qa = Benchmark(
    version=1,
    source="https://www.tau-nlp.org/commonsenseqa, arXiv:1811.00937",
    licence="MIT",
    splits={"train": 9741, "validation": 1221},
    test_split="validation",
    fitness_split="train",
    shots_split="train",
    item=_item,
    forms={
        "chat": Form(ask=choices.chat_ask, rules={"letter": letter_rule}, max_new_tokens=512),
        "base": Form(
            ask=_ask,
            options=choices.letter_options,
            shots=7,
            example=lambda item: f"{_ask(item)} {item.answer}",
        ),
    },
    hub=Hub(
        "tau/commonsense_qa",
        {"train": "train", "validation": "validation"},
        choices.from_labels,
    ),
)
