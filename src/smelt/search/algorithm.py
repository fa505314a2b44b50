"""What a search algorithm is: it asks for genomes in the unit box and is told their fitness."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Algorithm(Protocol):
    """Maximises. Deterministic for a seed and the same answers, so a journal can be replayed."""

    def ask(self) -> list[list[float]]:
        """The next candidates, each a list of numbers in [0, 1]."""
        ...

    def tell(self, genomes: list[list[float]], fitness: list[float]) -> None:
        """The fitness of all candidates of the last `ask`, in any order."""
        ...

    def final(self) -> list[list[float]]:
        """Candidates worth one last look when the budget ends; always the same number of them."""
        ...
