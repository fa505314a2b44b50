"""Expression rewriting with a written chain: one domain a task, or an operator of each of two.

The prompt is an expression, the response its rewrites, leftmost innermost first: after
`max[352]*1-2=` comes `5*1-2=5-2=3.`
Tasks: `math`, `logic`, `code`, `seq` need an advanced operator of their domain (see
smelt.data.expression) and use basic ones besides; `ml mc lc ms ls cs` need one of each of two
domains (first letters) in one chain; `basic` uses basic operators only. Prompts do not repeat.
A combined fitness set should differ in shape from the test: give it other numbers of `operators`.
"""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from smelt.core.errors import UserError
from smelt.core.seed import seed_for
from smelt.data.document import Document, Skipped, make
from smelt.data.expression import OPERATORS, Kind, Node, OutOfRangeError, Tree, pair, size, used

Task = Literal["math", "logic", "code", "seq", "ml", "mc", "lc", "ms", "ls", "cs", "basic"]

# Which domains' operators a task draws from; `basic` draws a task first, then basic operators.
NEEDS: dict[str, tuple[str, ...]] = {
    "math": ("math",), "logic": ("logic",), "code": ("code",), "seq": ("seq",),
    "ml": ("math", "logic"), "mc": ("math", "code"), "lc": ("logic", "code"),
    "ms": ("math", "seq"), "ls": ("logic", "seq"), "cs": ("code", "seq"), "basic": (),
}  # fmt: skip
BASIC_SHAPES = ("math", "logic", "code", "ml", "mc", "lc")
PATIENCE = 20_000  # draws without a new prompt after which the task counts as exhausted
MAX_SHARE = 0.2  # largest share of a task's rows with the same digit as answer


class Draw:
    """Random trees over the operators of some domains, advanced ones every second time."""

    def __init__(self, random_: random.Random, shape: str, basic: bool, mixed: bool) -> None:
        self.random = random_
        self.domains = NEEDS[shape]
        self.mixed = mixed and not basic
        self.pools: dict[Kind, list[list[str]]] = {}
        for kind in ("number", "truth", "digits"):
            of_kind = [name for name, operator in OPERATORS.items() if operator.gives == kind]
            pools = [
                [
                    name
                    for name in of_kind
                    if self._teaches(OPERATORS[name].domain, advanced)
                    and OPERATORS[name].advanced is advanced
                ]
                for advanced in ((False,) if basic else (False, True))
            ]
            self.pools[kind] = [pool for pool in pools if pool]

    def _teaches(self, domain: str, advanced: bool) -> bool:
        # The basic operators of `seq` are those that `code` has: both work on lists of digits.
        if not advanced and (self.mixed or (domain == "code" and "seq" in self.domains)):
            return True
        return domain in self.domains

    def root(self) -> Kind:
        """What the whole expression gives: logic decides, then arithmetic, then lists."""
        if "logic" in self.domains:
            return "truth"
        if "math" in self.domains:
            return self.random.choice(("number", "truth")) if self.mixed else "number"
        return self.random.choice(
            ("number", "digits", "truth") if self.mixed else ("number", "digits")
        )

    def tree(self, kind: Kind, count: int) -> Tree:
        """A tree with `count` operators, or fewer where no operator gives the kind."""
        if not count or not self.pools[kind]:
            return self._leaf(kind)
        op = self.random.choice(self.random.choice(self.pools[kind]))
        takes = OPERATORS[op].takes
        left = self.random.randint(0, count - 1) if len(takes) == 2 else count - 1
        counts = (left, count - 1 - left)
        return Node(op, tuple(self.tree(part, counts[i]) for i, part in enumerate(takes)))

    def _leaf(self, kind: Kind) -> Tree:
        if kind == "truth":
            return self.random.random() < 0.5
        if kind == "number":
            return self.random.randint(0, 9)
        return tuple(self.random.randint(0, 9) for _ in range(self.random.randint(2, 5)))


def composed(
    seed: int,
    *,
    tasks: list[Task],
    count: int,
    max_length: int = 44,
    operators: list[int] = [2, 3],  # noqa: B006 (a recipe default; never changed)
    mixed: bool = False,
) -> Iterator[Document | Skipped]:
    """`count` rows for each of `tasks`; `max_length` characters of prompt and response together.

    operators: numbers of operators to choose from for each prompt; mixed: basic operators of every
    domain beside the advanced ones of the task, so that a skill is met in foreign surroundings
    (`3*2<first[71]`), which later lets two advanced ones combine. Every row is independent of
    `count` and of the other tasks, so a larger count extends a smaller one.
    Raises UserError when a task has fewer distinct prompts than asked for.
    """
    if not operators or min(operators) < 1 or count < 1 or not tasks:
        raise UserError("composed", "an empty choice", "tasks, a count and operators of at least 1")
    for task in tasks:
        yield from _rows(
            random.Random(seed_for(seed, task)), task, count, max_length, operators, mixed
        )


def _rows(
    source: random.Random, task: str, count: int, max_length: int, sizes: list[int], mixed: bool
) -> Iterator[Document]:
    shapes = BASIC_SHAPES if task == "basic" else (task,)
    draws = [Draw(source, shape, task == "basic", mixed) for shape in shapes]
    needed = set(NEEDS[task])
    seen: set[str] = set()
    answers: Counter[str] = Counter()
    waited = 0
    while len(seen) < count:
        waited += 1
        if waited > PATIENCE:
            found = f"only {len(seen)} distinct prompts of task '{task}' found"
            raise UserError("composed", found, f"{count}", "a smaller count, or more operators")
        draw = source.choice(draws)
        wanted = source.choice(sizes)
        tree = draw.tree(draw.root(), wanted)
        names = used(tree)
        advanced = {OPERATORS[name].domain for name in names if OPERATORS[name].advanced}
        if not isinstance(tree, Node) or size(tree) != wanted or advanced != needed:
            continue
        if task == "basic" and {OPERATORS[name].domain for name in names} != set(draw.domains):
            continue
        try:
            prompt, response, answer = pair(tree)
        except OutOfRangeError:
            continue
        if len(prompt) + len(response) > max_length or prompt in seen:
            continue
        # Products and remainders end in 0 every third time; unchecked, "0" is a good guess.
        if answer.isdigit() and answers[answer] > MAX_SHARE * (len(seen) + 10):
            continue
        answers[answer] += 1
        seen.add(prompt)
        waited = 0
        meta = {"task": task, "answer": answer, "verifier": "expression"}
        yield make(prompt + response, source="composed", domain=task, prompt=prompt, meta=meta)
