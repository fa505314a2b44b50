"""What word problems share: how they are asked, and the number that answers them."""

from smelt.evals.benchmark import Item, Row
from smelt.evals.reading import flexible_extract, number_rule, strict_match
from smelt.verify import number

RULES = {
    "number": number_rule,
    "flexible-extract": flexible_extract,
    "strict-match": strict_match,
}


def number_item(row: Row, group: str, answer: str) -> Item:
    """An item whose gold text ends with "#### answer". Raises ValueError without a number."""
    if number.last(answer) is None:
        raise ValueError(f"the answer {answer!r} has no number")
    gold = f"{row.get('solution', '')}\n#### {answer}".strip()
    question, subject = str(row["question"]).strip(), str(row.get("subject", ""))
    return Item(str(row["id"]), group, question, gold, answer, subject=subject)


def ask(item: Item) -> str:
    """The question, to be continued by the answer."""
    return f"Question: {item.question}\nAnswer:"


def chat_ask(item: Item) -> str:
    """The question, for a chat."""
    return (
        f"{item.question}\n\nThink step by step, then put the final answer, "
        "a number without units, inside \\boxed{}."
    )
