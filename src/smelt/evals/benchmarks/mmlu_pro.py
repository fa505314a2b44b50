"""MMLU-Pro: up to ten options, answered after a chain of thought. (arXiv:2406.01574)"""

from smelt.evals import choices
from smelt.evals.benchmark import LETTERS, Benchmark, Form, Hub, Item, Row
from smelt.evals.reading import custom_extract, letter_rule

_RULES = {"letter": letter_rule, "custom-extract": custom_extract}
_THINK = "Let's think step by step."


def _item(row: Row) -> Item:
    solution = str(row.get("solution", "")).removeprefix("A: ").removeprefix(_THINK).strip()
    gold = solution or f"The answer is ({row['answer']})."
    return choices.choice_item(row, "mmlu_pro", subject=str(row["subject"]), gold=gold)


def _before(item: Item) -> str:
    return (
        f"The following are multiple choice questions (with answers) about {item.subject}. Think "
        'step by step and then finish your answer with "the answer is (X)" where X is the correct '
        "letter choice.\n"
    )


def _ask(item: Item) -> str:
    options = choices.lettered(item)
    return f"Question:\n{item.question}\nOptions:\n{options}\nAnswer: {_THINK}"


def _convert(row: Row) -> Row:
    index = int(row["answer_index"])
    found = {"id": f"mmlu_pro/{row['question_id']}", "question": row["question"]}
    found |= {"choices": list(row["options"]), "answer": LETTERS[index]}
    found |= {"answer_index": index, "subject": row["category"]}
    return {**found, **({"solution": row["cot_content"]} if row.get("cot_content") else {})}


mmlu_pro = Benchmark(
    version=1,
    source="https://github.com/TIGER-AI-Lab/MMLU-Pro, arXiv:2406.01574",
    licence="MIT",
    splits={"validation": 70, "test": 12032},
    test_split="test",
    fitness_split="validation",
    shots_split="validation",
    item=_item,
    forms={
        "chat": Form(ask=choices.chat_ask, rules=_RULES, max_new_tokens=2048),
        "base": Form(
            ask=_ask,
            rules=_RULES,
            shots=5,
            example=lambda item: f"{_ask(item)} {item.gold}",
            before=_before,
            max_new_tokens=1024,
            stop=("Question:",),
        ),
    },
    hub=Hub("TIGER-Lab/MMLU-Pro", {"validation": "validation", "test": "test"}, _convert),
)
