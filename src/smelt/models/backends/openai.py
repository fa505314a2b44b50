"""A model behind an OpenAI-compatible endpoint: OpenAI, vLLM, llama.cpp, Ollama, SGLang."""

import json
import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from smelt.core import digest, progress
from smelt.core.errors import UserError
from smelt.models.backend import Backend, Likelihood, Message, Query, Request, Written
from smelt.models.echoed import ECHO, echoed
from smelt.models.endpoint import Endpoint

OPENAI = "https://api.openai.com/v1"
# A prompt that begins so is a conversation, as JSON: the server knows the template, we do not.
CHAT = "<|smelt: messages|>"
MOST_STOPS = 4  # what OpenAI takes; the others are cut here
SEED_MASK = (1 << 31) - 1


def openai(
    model: str,
    *,
    url: str = OPENAI,
    chat: bool = True,
    context: Annotated[int, Field(gt=0)] = 131072,
    concurrency: Annotated[int, Field(gt=0)] = 8,
    timeout: Annotated[float, Field(gt=0)] = 600.0,
    retries: Annotated[int, Field(ge=0)] = 6,
    wait: Annotated[float, Field(ge=0)] = 1.0,
    budget_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
    revision: str = "",
) -> Backend:
    """Ask a server. Its key comes from OPENAI_API_KEY; it is never stored.

    model: as the server knows it; url: up to /v1; chat: false for a model without a chat template;
    context: what the server allows; concurrency: requests under way at once; timeout, wait: in
    seconds (wait is that before the first of the `retries`, and doubles with each);
    budget_key: how conversations call their budget (the newer OpenAI models want the longer name);
    revision: any text, changed by you when another model stands behind the same name, since kept
    answers are known by url, model and revision. Raises UserError for OpenAI without a key.
    """
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and url == OPENAI:
        raise UserError("OPENAI_API_KEY", "not set", "a key of OpenAI, or the url of a server")
    endpoint = Endpoint(url, key=key, timeout=timeout, retries=retries, wait=wait)
    return OpenAI(model, endpoint, chat, context, concurrency, budget_key, revision)


class OpenAI:
    """See `openai`."""

    def __init__(
        self, model: str, endpoint: Endpoint, has_chat: bool, context: int, concurrency: int,
        budget_key: str, revision: str,
    ) -> None:  # fmt: skip
        self.model, self.endpoint, self.context = model, endpoint, context
        self._has_chat, self._concurrency, self._budget_key = has_chat, concurrency, budget_key
        self.identity = digest.value(["openai", endpoint.url, model, revision, budget_key])

    def chat(self, messages: list[Message]) -> str | None:
        """The conversation itself, marked: the server puts it into its template."""
        return CHAT + json.dumps(messages, ensure_ascii=False) if self._has_chat else None

    def num_tokens(self, texts: list[str]) -> list[int]:
        """An estimate, four bytes a token: the server does not tell how it cuts texts."""
        return [-(-len(text.encode("utf-8", "replace")) // 4) for text in texts]

    def write(
        self, requests: list[Request], done: Callable[[list[int], list[Written]], None], label: str
    ) -> None:
        """Continue every prompt, several at a time. Raises UserError when the server refuses."""
        self._ask([self._call(request) for request in requests], requests, _answer, done, label)

    def likelihood(
        self, queries: list[Query], done: Callable[[list[int], list[Likelihood]], None], label: str
    ) -> None:
        """Score continuations where the server echoes prompts with their log-probabilities."""
        calls = [
            ("/completions", {"model": self.model, "prompt": q.prompt + q.continuation} | ECHO)
            for q in queries
        ]
        self._ask(calls, queries, lambda reply, query: echoed(reply, query, self.endpoint.url),
                  done, label)  # fmt: skip

    def _ask(
        self, calls: list[tuple[str, dict[str, Any]]], asked: list[Any],
        read: Callable[[dict[str, Any], Any], Any], done: Callable[[list[int], list[Any]], None],
        label: str,
    ) -> None:  # fmt: skip
        replies = enumerate(self.endpoint.each(calls, self._concurrency))
        for index, reply in progress.track(replies, label, len(calls)):
            try:
                found = read(reply, asked[index])
            except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
                where, told = self.endpoint.url, str(reply)[:120]
                raise UserError(where, f"cannot be read: {told}", "OpenAI's format") from error
            done([index], [found])

    def _call(self, request: Request) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"model": self.model, "temperature": request.temperature}
        if request.stop:
            body["stop"] = list(request.stop[:MOST_STOPS])
        if request.temperature:
            body |= {"top_p": request.top_p, "seed": request.seed & SEED_MASK}
        if request.prompt.startswith(CHAT):
            messages = json.loads(request.prompt[len(CHAT) :])
            more = {"messages": messages, self._budget_key: request.max_new_tokens}
            return "/chat/completions", body | more
        more = {"prompt": request.prompt, "max_tokens": request.max_new_tokens}
        return "/completions", body | more

    def close(self) -> None:
        """Nothing is held."""


def _answer(reply: dict[str, Any], request: Request) -> Written:
    choice = reply["choices"][0]
    text = choice["message"].get("content") if "message" in choice else choice["text"]
    whole = text or ""
    places = [place for stop in request.stop if stop and (place := whole.find(stop)) >= 0]
    text = whole[: min(places)] if places else whole
    used = (reply.get("usage") or {}).get("completion_tokens")
    size = int(used) if used is not None else -(-len(whole.encode("utf-8", "replace")) // 4)
    return Written(text, size, bool(places) or choice.get("finish_reason") == "stop")
