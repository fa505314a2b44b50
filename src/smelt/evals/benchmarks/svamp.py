"""SVAMP: word problems of one or two steps with distractors, the last number. (arXiv:2103.07191)"""

from smelt.evals import word_problem
from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row

# Written for this file: SVAMP has no examples of its own, its 1000 problems are all tests.
_SOLVED = """\
Question: A shelf holds 14 books. Lena puts 9 more books on it and takes 5 magazines away from \
the table. How many books are on the shelf now?
Answer: The magazines do not matter. There are 14 + 9 = 23 books.
#### 23

Question: Omar had 31 stickers. He gave 12 of them to his sister. How many stickers does he \
have left?
Answer: He has 31 - 12 = 19 stickers left.
#### 19

Question: A baker fills 6 trays with 8 rolls each and sells 3 loaves of bread. How many rolls \
did he make?
Answer: The loaves do not matter. He made 6 * 8 = 48 rolls.
#### 48

Question: 45 children are to sit in 5 buses, the same number in each. How many children sit in \
each bus?
Answer: Each bus takes 45 / 5 = 9 children.
#### 9

"""


def _item(row: Row) -> Item:
    return word_problem.number_item(row, "svamp", str(row["answer"]))


def _convert(row: Row) -> Row:
    body = str(row["Body"]).strip()
    body += "" if body.endswith((".", "?", "!", ",")) else "."
    answer = str(row["Answer"]).removesuffix(".0")
    found = {"id": f"svamp/{row['ID']}", "question": f"{body} {str(row['Question']).strip()}"}
    return {**found, "answer": answer, "solution": row["Equation"], "subject": row["Type"]}


svamp = Benchmark(
    version=1,
    source="https://github.com/arkilpatel/SVAMP, arXiv:2103.07191",
    licence="MIT",
    splits={"test": 1000},
    test_split="test",
    fitness_split=None,
    item=_item,
    forms={
        "chat": Form(ask=word_problem.chat_ask, rules=word_problem.RULES, max_new_tokens=512),
        "base": Form(
            ask=word_problem.ask,
            rules=word_problem.RULES,
            before=lambda item: _SOLVED,
            max_new_tokens=128,
            stop=("Question:",),
        ),
    },
    # The hub's two splits are together the 1000 problems of the paper.
    hub=Hub("ChilleD/SVAMP", {"test": "train+test"}, _convert),
)
