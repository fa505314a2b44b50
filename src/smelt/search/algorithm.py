"""What a search algorithm is: it asks for genomes in the unit box and is told what they gave."""

from typing import Protocol, runtime_checkable

from smelt.core.errors import UserError


@runtime_checkable
class Algorithm(Protocol):
    """Maximises. Deterministic for a seed and the same answers, so a journal can be replayed.

    The file of an algorithm holds a function `NAME(start, seed, *, objectives: int, options...)`,
    whose annotations say what an option may be (`registry.check_keywords` refuses other values);
    an algorithm for one objective refuses more (UserError). A generation may be asked before the
    one before it has been told (candidates in flight on other workers); `tell` comes in the order
    of `ask`, each with a whole generation.
    """

    def ask(self) -> list[list[float]]:
        """The next generation, each candidate a list of numbers in [0, 1]; the very first
        generation begins with the start point."""
        ...

    def tell(self, genomes: list[list[float]], values: list[list[float]]) -> None:
        """What the candidates of an `ask` gave: one number per objective, more is better."""
        ...

    def final(self) -> list[list[float]]:
        """Candidates worth one last look when the budget ends; always the same number of them."""
        ...


def refuse_several(name: str, objectives: int) -> None:
    """Raise UserError when an algorithm for one objective is asked for more."""
    if objectives != 1:
        found = f"{objectives} objectives for {name}, which takes one"
        raise UserError("objectives", found, "one objective", "algorithm: nsga2 or bayesian")
