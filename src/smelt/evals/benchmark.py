"""The record of a benchmark, and the items it is made of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Score = Callable[[str, "Item"], tuple[bool, str]]


@dataclass(frozen=True)
class Item:
    """One question. `group` names the row of the score table that it counts for."""

    id: str
    group: str
    prompt: str
    gold: str
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """How a data file becomes questions, and answers become right or wrong.

    read: file -> items; score: (answer, item) -> (correct, named reason), never raising on model
    output; version: raised whenever scores stop being comparable; fitness_split: the split that
    a search may use (never the test split); stop: an answer ends before the first of these;
    follow_gold: the budget of new tokens grows where a gold text is longer.
    """

    version: int
    test_split: str
    fitness_split: str
    read: Callable[[Path], Iterator[Item]]
    score: Score
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    follow_gold: bool = False
