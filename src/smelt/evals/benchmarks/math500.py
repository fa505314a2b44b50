"""MATH-500: competition problems, the box by math-verify. (arXiv:2103.03874)"""

from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row, Rule
from smelt.evals.reading import exact_rule, latex_rule
from smelt.verify._boxed import box

_RULES: dict[str, Rule] = {"math_verify": latex_rule, "exact": exact_rule}
_SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra",
    "number_theory", "prealgebra", "precalculus",
)  # fmt: skip
# Written for this file, in the form of Minerva's prompt (arXiv:2206.14858, appendix D).
_SOLVED = r"""Problem:
Find the largest possible value of $x$ such that $x^2 - 3x \le 10$.

Solution:
We have $x^2 - 3x - 10 = (x-5)(x+2) \le 0$, which holds for $-2 \le x \le 5$. So the largest
value is $\boxed{5}$.
Final Answer: The final answer is $5$. I hope it is correct.

Problem:
A fair coin is tossed three times. What is the probability of exactly two heads?

Solution:
Of the $2^3 = 8$ outcomes, $\binom{3}{2} = 3$ have exactly two heads. So the probability is
$\boxed{\frac{3}{8}}$.
Final Answer: The final answer is $\frac{3}{8}$. I hope it is correct.

Problem:
Factor $4y^2 - 9$ completely.

Solution:
This is a difference of squares: $(2y)^2 - 3^2 = \boxed{(2y-3)(2y+3)}$.
Final Answer: The final answer is $(2y-3)(2y+3)$. I hope it is correct.

Problem:
A right triangle has legs of length 4 and 6. How long is its hypotenuse?

Solution:
By the theorem of Pythagoras it is $\sqrt{4^2 + 6^2} = \sqrt{52} = \boxed{2\sqrt{13}}$.
Final Answer: The final answer is $2\sqrt{13}$. I hope it is correct.

"""


def _item(row: Row) -> Item:
    answer, solution = str(row["answer"]).strip(), str(row.get("solution", ""))
    if not answer:
        raise ValueError("an empty answer")
    gold = solution if box(solution) else f"{solution} $\\boxed{{{answer}}}$".strip()
    level = row.get("meta", {}).get("level")
    subject = str(row.get("subject", ""))
    question = str(row["question"]).strip()
    return Item(str(row["id"]), "math500", question, gold, answer, (), subject, {"level": level})


def _ask(item: Item) -> str:
    return f"Problem:\n{item.question}\n\nSolution:"


def _chat(item: Item) -> str:
    return f"{item.question}\n\nThink step by step, then put the final answer inside \\boxed{{}}."


def _convert(row: Row) -> Row:
    found = {"id": f"math500/{row['unique_id']}", "question": row["problem"]}
    found |= {"answer": row["answer"], "solution": row["solution"], "subject": row["subject"]}
    return {**found, "meta": {"level": row["level"]}}


def _convert_train(row: Row) -> Row | None:
    answer = box(str(row["solution"]))
    if not answer:
        return None
    level = str(row["level"]).removeprefix("Level ").strip()
    found = {"question": row["problem"], "answer": answer, "solution": row["solution"]}
    meta = {"level": int(level) if level.isdigit() else None}
    return {**found, "subject": row["type"], "meta": meta}


math500 = Benchmark(
    version=1,
    source="https://github.com/openai/prm800k, arXiv:2103.03874 and arXiv:2305.20050",
    licence="MIT",
    splits={"train": 7500, "test": 500},
    test_split="test",
    fitness_split="train",
    item=_item,
    forms={
        "chat": Form(ask=_chat, rules=_RULES, max_new_tokens=2048),
        "base": Form(
            ask=_ask,
            rules=_RULES,
            before=lambda item: _SOLVED,
            max_new_tokens=512,
            stop=("Problem:",),
        ),
    },
    hub=Hub(
        "HuggingFaceH4/MATH-500",
        {"test": "test"},
        _convert,
        others=(Hub("EleutherAI/hendrycks_math", {"train": "train"}, _convert_train, _SUBJECTS),),
    ),
)
