"""The record of a benchmark: where its questions come from, how they are asked and answers read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from smelt.verify.sandbox.job import Job

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Row = dict[str, Any]
"""One line of a data file: id, question, answer, choices, answer_index, solution, tests,
entry_point, subject, meta (which of them, each benchmark says)."""


@dataclass(frozen=True)
class Item:
    """One question.

    group: the row of the score table it counts for; question: what is asked, without any prompt
    around it; gold: a text that is a right answer in every generating form; answer: the bare
    answer (a letter, a number); choices: the options, in order; subject: what few-shot examples
    share with the question, and a finer division of the score.
    """

    id: str
    group: str
    question: str
    gold: str
    answer: str = ""
    choices: tuple[str, ...] = ()
    subject: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def index(self) -> int:
        """The place of the right option, whose letter is the answer."""
        return LETTERS.index(self.answer)


Rule = Callable[[str, Item], tuple[float, str]]
"""(answer, item) -> (score from 0 to 1, named reason). Never raises on what a model writes."""


@dataclass(frozen=True)
class Form:
    """How a question is asked. Exactly one of `rules`, `job` and `options` says how it is scored.

    ask: the question as the model reads it, up to where the answer begins; shots: how many solved
    examples stand before it, each as `example` writes it, after `before` (a description), with
    `between` between them. An answer ends before the first of `stop`.
    rules: named readings of a written answer, the first of which is the score, the others are
    reported beside it; job: the program that a written answer is, with its tests; options: what
    the model chooses from by likelihood, continuations of the prompt (of `contexts`, one each,
    where these differ instead of it); per_character: whether the score goes by the likelihood per
    character rather than that of the whole option (both are reported).
    follow_gold: the budget of new tokens grows where a gold text is longer.
    """

    ask: Callable[[Item], str]
    rules: dict[str, Rule] = field(default_factory=dict)
    job: Callable[[str, Item], Job] | None = None
    options: Callable[[Item], list[str]] | None = None
    contexts: Callable[[Item], list[str]] | None = None
    per_character: bool = False
    shots: int = 0
    example: Callable[[Item], str] | None = None
    before: Callable[[Item], str] | None = None
    between: str = "\n\n"
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    follow_gold: bool = False


@dataclass(frozen=True)
class Hub:
    """Where `smelt fetch` gets the data: a dataset repository and its rows.

    splits: our split -> the hub's; convert: a row of the hub -> a row of ours (None: left out);
    configs: the configurations to read one after another (subjects of MMLU), or one, or none; a
    row has the name of its own under the key `config`; others: repositories of further splits.
    """

    repository: str
    splits: dict[str, str]
    convert: Callable[[Row], Row | None]
    configs: tuple[str, ...] = ()
    others: tuple["Hub", ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """What is measured, on which data, and how.

    version: raised whenever scores stop being comparable; source: where the data and the prompts
    come from; splits: data file `SPLIT.jsonl.gz` -> number of its items; fitness_split: what a
    search may use (never the test split; None: there is nothing it may use); shots_split: where
    solved examples come from; item: a row -> its item (None: the row is left out), raising KeyError
    or ValueError for a row that is damaged; forms: "chat" (zero-shot, through a chat template) and
    "base" (few-shot text); hub or make: where
    `smelt fetch` gets the rows, from the hub, or made from a seed (split -> rows).
    """

    version: int
    source: str
    licence: str
    splits: dict[str, int]
    test_split: str
    fitness_split: str | None
    item: Callable[[Row], Item | None]
    forms: dict[str, Form]
    shots_split: str | None = None
    hub: Hub | None = None
    make: Callable[[int], dict[str, list[Row]]] | None = None


def sources(benchmark: Benchmark) -> dict[str, Hub]:
    """Our split -> the repository that has it."""
    if benchmark.hub is None:
        return {}
    hubs = (benchmark.hub, *benchmark.hub.others)
    return {split: hub for hub in hubs for split in hub.splits}
