"""What a generator backend is: prompts in, texts or likelihoods out, known by its content."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from smelt.core.errors import UserError

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


@dataclass(frozen=True)
class Request:
    """A text to continue. temperature 0 is greedy; `seed` makes a drawn answer repeatable."""

    prompt: str
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """A continuation, without the stop text that ended it; `finished`: it did end by itself."""

    text: str
    num_tokens: int
    finished: bool


@dataclass(frozen=True)
class Query:
    """How likely is this continuation of this prompt?"""

    prompt: str
    continuation: str


@dataclass(frozen=True)
class Likelihood:
    """Sum of log-probabilities (nats, at most 0) of the continuation's tokens, and whether each of
    them was the likeliest."""

    nats: float
    num_tokens: int
    greedy: bool


@runtime_checkable
class Backend(Protocol):
    """A loaded model. The file of a backend holds a function `NAME(model, *, options...)`.

    identity: names the content (digest of the weights, precision, template), so that answers can
    be kept by it; context: tokens that prompt and answer may have together.
    """

    identity: str
    context: int

    def chat(self, messages: list[Message]) -> str | None:
        """The prompt text of a conversation by the model's chat template; None: it has none."""
        ...

    def num_tokens(self, texts: list[str]) -> list[int]:
        """Tokens of each text as a prompt."""
        ...

    def write(
        self, requests: list[Request], done: Callable[[list[int], list[Written]], None], label: str
    ) -> None:
        """Continue every prompt. `done(indices, texts)` is called as batches are finished, in an
        order that depends on the requests only, so that a killed run resumes to the same."""
        ...

    def likelihood(
        self, queries: list[Query], done: Callable[[list[int], list[Likelihood]], None], label: str
    ) -> None:
        """Score every continuation. Raises UserError where the backend cannot."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def require_room(
    sizes: Iterable[int],
    context: int,
    where: object,
    hint: str = "fewer max_new_tokens or examples",
) -> None:
    """Refuse requests (their tokens, prompt and answer) that do not fit. Raises UserError."""
    longest = max(sizes, default=0)
    if longest > context:
        found = f"prompt and answer need {longest} tokens"
        raise UserError(where, found, f"at most {context}", hint)
