"""Questions with options: their rows, how options are written, what a model chooses from."""

from smelt.evals.benchmark import LETTERS, Benchmark, Form, Hub, Item, Row
from smelt.evals.reading import letter_rule

MOST = 10  # letters that `verify.choice` reads
BOXED_LETTER = (
    "Think step by step, then give the letter of the right option inside \\boxed{}, "
    "e.g. \\boxed{A}."
)


def choice_item(row: Row, group: str, *, subject: str = "", gold: str = "") -> Item:
    """A row with choices and the letter of the right one. gold: a whole right answer, if not the
    letter. Raises KeyError or ValueError for a damaged row."""
    choices = tuple(str(choice) for choice in row["choices"])
    letter = str(row["answer"]).strip()
    if len(letter) != 1 or letter not in LETTERS[:MOST][: len(choices)] or len(choices) < 2:
        raise ValueError(f"the answer {letter!r} is no letter of {len(choices)} choices")
    return Item(
        str(row["id"]),
        group,
        str(row["question"]).strip(),
        gold or letter,
        letter,
        choices,
        subject,
    )


def lettered(item: Item) -> str:
    """The options, a line each: `A. first`."""
    pairs = zip(LETTERS, item.choices, strict=False)
    return "\n".join(f"{letter}. {choice.strip()}" for letter, choice in pairs)


def chat_ask(item: Item) -> str:
    """Question, options, and what to do."""
    return f"{item.question}\n\n{lettered(item)}\n\n{BOXED_LETTER}"


def letters_ask(item: Item) -> str:
    """Question and lettered options up to `Answer:`, as MMLU writes them."""
    return f"{item.question}\n{lettered(item)}\nAnswer:"


def letter_options(item: Item) -> list[str]:
    """` A`, ` B`, ... for each option."""
    return [" " + letter for letter in LETTERS[: len(item.choices)]]


def letters_example(item: Item) -> str:
    """A solved question with its letter."""
    return f"{letters_ask(item)} {item.answer}"


def text_ask(item: Item) -> str:
    """The question alone, options unseen, as ARC asks base models."""
    return f"Question: {item.question}\nAnswer:"


def text_options(item: Item) -> list[str]:
    """The text of each option."""
    return [" " + choice for choice in item.choices]


def text_example(item: Item) -> str:
    """A solved question with the text of the right option."""
    return f"{text_ask(item)} {item.choices[item.index]}"


def from_labels(row: Row) -> Row | None:
    """A hub row of ARC or CommonsenseQA (choices with labels, answerKey) as a row of ours. None
    where no answer is given (hidden test answers)."""
    labels = [str(label) for label in row["choices"]["label"]]
    if row["answerKey"] not in labels:
        return None
    index = labels.index(row["answerKey"])
    texts = [str(text) for text in row["choices"]["text"]]
    found = {"question": row["question"], "choices": texts, "answer": LETTERS[index]}
    return {"id": row["id"], **found, "answer_index": index}


def arc(name: str, configuration: str, splits: dict[str, int], *, shots: int) -> Benchmark:
    """A benchmark of AI2's ARC: its two sets differ in their questions and usual examples only."""
    return Benchmark(
        version=1,
        source="https://allenai.org/data/arc, arXiv:1803.05457",
        licence="CC-BY-SA-4.0",
        splits=splits,
        test_split="test",
        fitness_split="validation",
        shots_split="train",
        item=lambda row: choice_item(row, name),
        forms={
            "chat": Form(ask=chat_ask, rules={"letter": letter_rule}, max_new_tokens=1024),
            "base": Form(
                ask=text_ask,
                options=text_options,
                per_character=True,
                shots=shots,
                example=text_example,
            ),
        },
        hub=Hub("allenai/ai2_arc", {split: split for split in splits}, from_labels,
                (configuration,)),
    )  # fmt: skip
