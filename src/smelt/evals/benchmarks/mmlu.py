"""MMLU: four options each in 57 subjects, from school to profession. (arXiv:2009.03300)"""

from smelt.evals import choices
from smelt.evals.benchmark import LETTERS, Benchmark, Form, Hub, Item, Row
from smelt.evals.reading import letter_rule


def _item(row: Row) -> Item:
    return choices.choice_item(row, "mmlu", subject=str(row["subject"]))


def _before(item: Item) -> str:
    subject = item.subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


def _convert(row: Row) -> Row:
    found = {"question": row["question"], "choices": list(row["choices"])}
    index = int(row["answer"])
    found |= {"answer": LETTERS[index], "answer_index": index}
    return {**found, "subject": row["subject"]}


mmlu = Benchmark(
    version=1,
    source="https://github.com/hendrycks/test, arXiv:2009.03300",
    licence="MIT",
    splits={"dev": 285, "validation": 1531, "test": 14042},
    test_split="test",
    fitness_split="validation",
    shots_split="dev",
    item=_item,
    forms={
        "chat": Form(ask=choices.chat_ask, rules={"letter": letter_rule}, max_new_tokens=1024),
        "base": Form(
            ask=choices.letters_ask,
            options=choices.letter_options,
            shots=5,
            example=choices.letters_example,
            before=_before,
        ),
    },
    hub=Hub(
        "cais/mmlu",
        {"dev": "dev", "validation": "validation", "test": "test"},
        _convert,
        ("all",),
    ),
)
