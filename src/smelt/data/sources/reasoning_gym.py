"""Problems of the reasoning-gym package, written as the same chains that `composed` writes.

Tasks, and the domain of their rows: `basic_arithmetic` and `chain_sum` (math), `number_sorting`
(code: `sort[352]`, descending `rev sort[352]`), `circuit_logic` (logic, inputs put in). What the
notation cannot hold (a value outside 0..9, a NAND gate, a chain that is too long) is skipped and
counted. reasoning-gym's own `score_answer` must confirm every answer: version 0.1.25 takes some
sums from left to right (2 + 1 * 7 as 21), and such items are left out (`answers_differ`).

Item i of its seed s is item 0 of seed s + i, so two seeds must lie further apart than any size:
seeds here are multiples of ten million.
"""

from collections.abc import Iterator
from typing import Any, Literal

from smelt.core.errors import UserError, needs
from smelt.core.seed import seed_for
from smelt.data.document import Document, Skipped, make
from smelt.data.expression import OutOfRangeError, chain, pair
from smelt.data.gym_chains import WRITERS, NotWritableError, their_notation

Task = Literal["basic_arithmetic", "chain_sum", "number_sorting", "circuit_logic"]
PACKAGES = ("reasoning-gym",)
SEED_SPACING = 10_000_000
MAX_TRIES = 50
"""Items drawn for each wanted row before a task counts as exhausted."""

SIMPLE = {"min_digits": 1, "max_digits": 1, "min_terms": 2, "max_terms": 3}
CONFIG: dict[str, dict[str, Any]] = {
    "basic_arithmetic": SIMPLE | {"operators": ("+", "-", "*"), "allow_negation": False,
                                  "allow_parentheses": False, "format_style": "simple"},
    "chain_sum": SIMPLE | {"max_terms": 4},
    "number_sorting": {"min_numbers": 2, "max_numbers": 5, "min_value": 0, "max_value": 9,
                       "min_decimals": 0, "max_decimals": 0},
    "circuit_logic": {"min_terms": 2, "max_terms": 2, "min_inputs": 2, "max_inputs": 2},
}  # fmt: skip
DOMAINS = {"basic_arithmetic": "math", "chain_sum": "math",
           "number_sorting": "code", "circuit_logic": "logic"}  # fmt: skip


def reasoning_gym(
    seed: int, *, tasks: list[Task], count: int, max_length: int = 44
) -> Iterator[Document | Skipped]:
    """`count` rows with distinct prompts for each of `tasks`, at most `max_length` characters each.

    Skipped: `not_writable`, `out_of_range`, `too_long`, `repeated_prompt`, `answers_differ`.
    Raises UserError without the package (extra `data`), or when a task has too few distinct items.
    """
    try:
        from reasoning_gym import create_dataset
    except ImportError as error:
        raise needs("data", "reasoning-gym") from error
    if count < 1 or count * MAX_TRIES > SEED_SPACING:
        raise UserError("reasoning_gym", f"a count of {count}", f"1 to {SEED_SPACING // MAX_TRIES}")
    for task in tasks:
        first = seed_for(seed, task) % 1_000_000 * SEED_SPACING
        items = create_dataset(task, size=count * MAX_TRIES, seed=first, **CONFIG[task])
        yield from _rows(items, task, count, max_length)


def _rows(items: Any, task: str, count: int, max_length: int) -> Iterator[Document | Skipped]:
    seen: set[str] = set()
    for place in range(count * MAX_TRIES):
        item = items[place]
        try:
            tree = WRITERS[task](item["metadata"])
            prompt, response, answer = pair(tree)
        except NotWritableError:
            yield Skipped("not_writable", item["question"])
            continue
        except OutOfRangeError:
            yield Skipped("out_of_range", item["question"])
            continue
        if prompt in seen or len(prompt + response) > max_length:
            yield Skipped("repeated_prompt" if prompt in seen else "too_long", prompt + response)
            continue
        if items.score_answer(their_notation(chain(tree)[-1]), item) != 1.0:
            yield Skipped("answers_differ", f"{item['question']} {item['answer']} {response}")
            continue
        seen.add(prompt)
        meta = {"task": task, "answer": answer, "verifier": "expression"}
        text, domain = prompt + response, DOMAINS[task]
        yield make(text, source="reasoning_gym", domain=domain, prompt=prompt, meta=meta)
        if len(seen) == count:
            return
    found = f"only {len(seen)} distinct items of '{task}' in {count * MAX_TRIES}"
    raise UserError("reasoning_gym", found, f"{count}", "a smaller count")
