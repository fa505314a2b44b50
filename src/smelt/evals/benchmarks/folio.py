"""FOLIO: does a conclusion follow from premises: true, false or uncertain? (arXiv:2209.00840)"""

from smelt.evals import choices
from smelt.evals.benchmark import LETTERS, Benchmark, Form, Hub, Item, Row
from smelt.evals.reading import words_rule

_WORDS = ("True", "False", "Uncertain")
_ASK = "Is the conclusion true, false or uncertain?"


def _item(row: Row) -> Item:
    word = str(row["answer"]).replace("Unknown", "Uncertain")
    if word not in _WORDS:
        raise ValueError(f"the answer {word!r} is none of {_WORDS}")
    letter = LETTERS[_WORDS.index(word)]
    question = str(row["question"]).strip()
    return Item(str(row["id"]), "folio", question, word, letter, _WORDS)


def _ask(item: Item) -> str:
    return f"Premises: {item.question}\n{_ASK}\nAnswer:"


def _chat(item: Item) -> str:
    think = "Think step by step, then give one of the words True, False and Uncertain"
    return f"Premises:\n{item.question}\n\n{_ASK} {think} inside \\boxed{{}}."


def _convert(row: Row) -> Row:
    premises = row["premises"]
    text = premises if isinstance(premises, str) else "\n".join(premises)
    word = str(row["label"]).replace("Unknown", "Uncertain")
    question = f"{text.strip()}\n\nConclusion: {row['conclusion']}"
    found = {"question": question, "answer": word, "choices": list(_WORDS)}
    meta = {"story": row.get("story_id")}
    return {**found, "answer_index": _WORDS.index(word), "meta": meta}


folio = Benchmark(
    version=1,
    source="https://github.com/Yale-LILY/FOLIO, arXiv:2209.00840",
    licence="CC-BY-SA-4.0",
    splits={"train": 1004, "validation": 204},
    test_split="validation",
    fitness_split="train",
    shots_split="train",
    item=_item,
    forms={
        "chat": Form(ask=_chat, rules={"word": words_rule}, max_new_tokens=1024),
        "base": Form(
            ask=_ask,
            options=choices.text_options,
            shots=8,
            example=lambda item: f"{_ask(item)} {item.gold}",
        ),
    },
    hub=Hub("tasksource/folio", {"train": "train", "validation": "validation"}, _convert),
)
