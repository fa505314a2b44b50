"""Likelihoods out of the answer of a completions endpoint that echoes the prompt's own tokens."""

from itertools import accumulate
from typing import Any

from smelt.core.errors import UserError
from smelt.models.backend import Likelihood, Query

ECHO: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0.0}
"""What a request says beside model and prompt; servers that read no prompt without writing one
token get one to write, which does not count."""


def echoed(reply: dict[str, Any], query: Query, where: str) -> Likelihood:
    """The likelihood of the tokens that begin in the continuation (or in the blanks before it).

    Raises UserError when the server echoed nothing, and KeyError, IndexError or TypeError for
    another format.
    """
    found = reply["choices"][0].get("logprobs")
    tokens: list[str] = (found or {}).get("tokens") or []
    whole = query.prompt + query.continuation
    begins = _begins(tokens, found.get("text_offset") or [], whole) if found else None
    if found is None or begins is None:
        raise UserError(
            where, "gives no log-probabilities of the prompt", "a server with echo and logprobs",
            "form: chat, whose answers are written",
        )  # fmt: skip
    first = len(query.prompt.rstrip())
    own = [place for place, begin in enumerate(begins) if first <= begin < len(whole)]
    nats = [found["token_logprobs"][place] for place in own]
    if not own or any(value is None for value in nats):
        shown = repr(whole[-40:])
        raise UserError(shown, "a continuation without a token of its own", "a longer prompt")
    best = [found["top_logprobs"][place] for place in own]
    greedy = all(value >= max(top.values()) for value, top in zip(nats, best, strict=True))
    return Likelihood(min(float(sum(nats)), 0.0), len(own), greedy)


def _begins(tokens: list[str], offsets: list[int], whole: str) -> list[int] | None:
    """Where in the text each token begins; None: the text is not there.

    Begin-of-text may stand before it as a token, which some servers count into their offsets and
    others do not. So the tokens themselves are laid end to end; only where they do not make up the
    text (halves of characters) the offsets are taken as they are.
    """
    joined = "".join(tokens)
    start = joined.find(whole)
    if start >= 0:
        return [place - start for place in accumulate(map(len, tokens), initial=0)][: len(tokens)]
    if len(offsets) == len(tokens) > 0 and offsets[-1] >= len(whole) - len(tokens[-1]):
        return offsets
    return None
