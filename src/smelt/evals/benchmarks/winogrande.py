"""WinoGrande: which of two names fills the blank of a sentence? (arXiv:1907.10641)"""

from smelt.evals import choices
from smelt.evals.benchmark import LETTERS, Benchmark, Form, Hub, Item, Row
from smelt.evals.reading import letter_rule


def _item(row: Row) -> Item:
    return choices.choice_item(row, "winogrande")


def _contexts(item: Item) -> list[str]:
    """The sentence up to the end of the blank, filled in either way (Trinh and Le 2018)."""
    return [choice.strip() for choice in item.choices]


def _options(item: Item) -> list[str]:
    return [" " + item.question] * len(item.choices)


def _example(item: Item) -> str:
    return f"{_contexts(item)[item.index]} {item.question}"


def _longest(item: Item) -> str:
    return max(_contexts(item), key=len)


def _before_blank(one: str, other: str) -> str:
    """What two filled sentences begin with, up to the word that differs."""
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return one[: one.rfind(" ", 0, same) + 1]


def _chat(item: Item) -> str:
    start = _before_blank(*item.choices)
    names = "\n".join(
        f"{letter}. {choice[len(start) :].strip()}"
        for letter, choice in zip(LETTERS, item.choices, strict=False)
    )
    ask = f"What fills the blank?\n\n{start}_ {item.question}\n\n{names}"
    return f"{ask}\n\n{choices.BOXED_LETTER}"


def _convert(row: Row) -> Row | None:
    if row["answer"] not in ("1", "2"):
        return None
    before, _, after = str(row["sentence"]).partition("_")
    index = int(row["answer"]) - 1
    found = {
        "question": after.strip(),
        "choices": [before + row["option1"], before + row["option2"]],
    }
    return {**found, "answer": LETTERS[index], "answer_index": index}


winogrande = Benchmark(
    version=1,
    source="https://winogrande.allenai.org, arXiv:1907.10641",
    licence="CC-BY-4.0",
    splits={"train": 40398, "test": 1267},
    test_split="test",
    fitness_split="train",
    shots_split="train",
    item=_item,
    forms={
        "chat": Form(ask=_chat, rules={"letter": letter_rule}, max_new_tokens=512),
        "base": Form(
            ask=_longest,
            contexts=_contexts,
            options=_options,
            example=_example,
        ),
    },
    # The paper's test answers are hidden: the hub's validation split is everyone's test.
    hub=Hub(
        "allenai/winogrande",
        {"train": "train", "test": "validation"},
        _convert,
        ("winogrande_xl",),
    ),
)
