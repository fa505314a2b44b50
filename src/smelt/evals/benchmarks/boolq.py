"""BoolQ: yes or no about a passage. (arXiv:1905.10044)"""

from smelt.evals import choices
from smelt.evals.benchmark import LETTERS, Benchmark, Form, Hub, Item, Row
from smelt.evals.reading import words_rule

_WORDS = ("no", "yes")


def _item(row: Row) -> Item:
    letter = str(row["answer"])
    if tuple(row["choices"]) != _WORDS or letter not in ("A", "B"):
        raise ValueError(f"the choices {row['choices']} with the answer {letter!r}")
    # Passages come as `Passage: ...`, which the prompt of the base form leaves out.
    question = str(row["question"]).strip().removeprefix("Passage: ")
    gold = _WORDS[LETTERS.index(letter)]
    return Item(str(row["id"]), "boolq", question, gold, letter, _WORDS)


def _ask(item: Item) -> str:
    return f"{item.question}\nAnswer:"


def _chat(item: Item) -> str:
    return f"{item.question}\n\nThink step by step, then give yes or no inside \\boxed{{}}."


def _convert(row: Row) -> Row:
    question = str(row["question"]).strip().removesuffix("?")
    index = int(row["answer"])
    found = {"question": f"Passage: {row['passage']}\nQuestion: {question}?"}
    return {
        **found, "choices": list(_WORDS), "answer": LETTERS[index], "answer_index": index,
    }  # fmt: skip


boolq = Benchmark(
    version=1,
    source="https://github.com/google-research-datasets/boolean-questions, arXiv:1905.10044",
    licence="CC-BY-SA-3.0",
    splits={"train": 9427, "test": 3270},
    test_split="test",
    fitness_split="train",
    shots_split="train",
    item=_item,
    forms={
        "chat": Form(ask=_chat, rules={"word": words_rule}, max_new_tokens=512),
        "base": Form(
            ask=_ask,
            options=choices.text_options,
            example=lambda item: f"{_ask(item)} {item.gold}",
        ),
    },
    # The hub's validation split is everyone's test: the answers of its test split are hidden.
    hub=Hub("google/boolq", {"train": "train", "test": "validation"}, _convert),
)
