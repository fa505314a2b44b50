"""TheoremQA: theorems put to use; a number, list, truth or option. (arXiv:2305.12524)"""

import re
from fractions import Fraction

from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row, Rule
from smelt.verify import number, phrase, words

# What the paper's own scorer allows of a number that is no integer.
TOLERANCE = 0.04
_OPTION = re.compile(r"\W*(?:text\{\W*)?([A-Za-z])(?!\w)")
# Written for this file.
_SOLVED = r"""Problem:
How many edges does the complete graph on 7 vertices have?

Solution:
Every pair of vertices is joined: $7 \cdot 6 / 2 = 21$. The answer is $\boxed{21}$.

Problem:
Is every continuous function on a closed bounded interval uniformly continuous? True or False?

Solution:
This is the theorem of Heine and Cantor. The answer is $\boxed{\text{True}}$.

Problem:
What are the eigenvalues of the matrix [[2, 1], [1, 2]], in increasing order, as a list?

Solution:
The characteristic polynomial is $(2-x)^2 - 1 = (x-1)(x-3)$. The answer is $\boxed{[1, 3]}$.

Problem:
A process has half-life 3 hours. Which fraction is left after 5 hours?

Solution:
It is $2^{-5/3} = 0.315$. The answer is $\boxed{0.315}$.

"""


def _item(row: Row) -> Item:
    meta, answer = row.get("meta", {}), str(row["answer"]).strip()
    kind = str(meta.get("answer_type", "float"))
    if kind not in ("bool", "option") and number.last(answer) is None:
        raise ValueError(f"the answer {answer!r} has no number")
    gold = f"The answer is $\\boxed{{{answer}}}$."
    question, subject = str(row["question"]).strip(), str(row.get("subject", ""))
    return Item(str(row["id"]), "theoremqa", question, gold, answer, (), subject, {"kind": kind})


def _read(answer: str, item: Item, tolerance: float) -> tuple[float, str]:
    kind, stated = item.meta["kind"], phrase.last(answer)
    if kind == "bool":
        right, reason = words.score(answer, item.answer)
        return float(right), reason
    if kind == "option":
        chosen = _OPTION.match(stated or "")
        if chosen is None:
            return 0.0, "no_choice"
        right = chosen[1].lower() == item.answer.strip("()").lower()
        return float(right), "right" if right else "wrong_answer"
    if kind.startswith("list"):
        return _lists(stated, item.answer, 0 if "integer" in kind else tolerance)
    found = number.last(answer if stated is None else stated)
    if found is None:
        return 0.0, "no_number"
    gold = number.last(item.answer)
    assert gold is not None
    near = abs(found - gold) <= abs(gold) * (0 if kind == "integer" else tolerance)
    return float(near), "right" if near else "wrong_answer"


def _lists(stated: str | None, gold: str, tolerance: float) -> tuple[float, str]:
    if stated is None:
        return 0.0, "no_answer"
    found, wanted = _numbers(stated), _numbers(gold)
    if not found:
        return 0.0, "no_number"
    near = len(found) == len(wanted) and all(
        abs(a - b) <= abs(b) * tolerance for a, b in zip(sorted(found), sorted(wanted), strict=True)
    )
    return float(near), "right" if near else "wrong_answer"


def _numbers(text: str) -> list[Fraction]:
    parts = (number.last(part) for part in re.split(r",(?=\s|[-\[(0-9.\\])", text))
    return [part for part in parts if part is not None]


def _tolerant(answer: str, item: Item) -> tuple[float, str]:
    return _read(answer, item, TOLERANCE)


def _strict(answer: str, item: Item) -> tuple[float, str]:
    return _read(answer, item, 1e-6)


def _chat(item: Item) -> str:
    form = {"bool": "True or False", "option": "the letter of the option, e.g. (a)"}
    wanted = form.get(item.meta["kind"], "a number or a list like [1, 2]")
    ask = f"Think step by step, then put the final answer, {wanted}, inside \\boxed{{}}."
    return f"{item.question}\n\n{ask}"


def _convert(row: Row) -> Row:
    found = {"question": row["Question"], "answer": str(row["Answer"])}
    return {**found, "meta": {"answer_type": row["Answer_type"], "picture": bool(row["Picture"])}}


_RULES: dict[str, Rule] = {"tolerant": _tolerant, "strict": _strict}
theoremqa = Benchmark(
    version=1,
    source="https://github.com/TIGER-AI-Lab/TheoremQA, arXiv:2305.12524",
    licence="MIT",
    splits={"test": 800},
    test_split="test",
    fitness_split=None,
    item=_item,
    forms={
        "chat": Form(ask=_chat, rules=_RULES, max_new_tokens=2048),
        "base": Form(
            ask=lambda item: f"Problem:\n{item.question}\n\nSolution:",
            rules=_RULES,
            before=lambda item: _SOLVED,
            max_new_tokens=512,
            stop=("Problem:",),
        ),
    },
    hub=Hub("TIGER-Lab/TheoremQA", {"test": "test"}, _convert),
)
