"""llama.cpp as a generator backend: GGUF files, one prompt after another."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from smelt.core import digest, progress
from smelt.core.errors import UserError
from smelt.models.backend import Likelihood, Message, Query, Request, Written, require_room
from smelt.models.llama_server import LlamaServer

VERSION = 2
ROOM = "a larger context, fewer max_new_tokens or examples"
FIRST_LOOK = 64  # likeliest tokens in which a wanted one is looked for before asking for all


class LlamaCpp:
    """A GGUF file in a running llama.cpp. Prompts are answered one by one and each is read anew:
    what llama.cpp keeps of an earlier one would change the last bits, and so would a resumed run.
    """

    def __init__(self, path: Path, context: int, threads: int) -> None:
        self._server = LlamaServer(path, context=context, threads=threads)
        try:
            facts = self._server.ask("/v1/models")["data"][0]["meta"]
            self._names = self._server.ask("/props")
            bare, begun = (self._ids("a", special) for special in (False, True))
        except BaseException:
            self._server.close()
            raise
        self._vocab, self._probe = int(facts["n_vocab"]), bare[-1]
        self.context = min(context, int(facts["n_ctx_train"]))
        self._lead = begun[: len(begun) - len(bare)] if begun[-len(bare) :] == bare else []
        self._has_template: bool | None = None
        self._control: dict[str, bool] = {}
        runtime = version("xllamacpp")
        self.identity = digest.value(["llama_cpp", VERSION, runtime, digest.file(path)])

    def _ids(self, text: str, special: bool, *, control: bool = True) -> list[int]:
        body = {"content": text, "add_special": special, "parse_special": control}
        return [int(index) for index in self._server.ask("/tokenize", body)["tokens"]]

    def _prompt(self, text: str) -> list[int]:
        """Ids of a prompt; begin-of-text comes once, whether the text has it or not."""
        begun = bool(self._lead) and text.startswith(str(self._names["bos_token"]))
        return self._ids(text, bool(self._lead) and not begun) or self._start()

    def _start(self) -> list[int]:
        """What an empty prompt starts from."""
        return self._lead or self._ids(str(self._names["eos_token"]), False)

    def chat(self, messages: list[Message]) -> str | None:
        """By the template in the file; None: it has none (llama.cpp would invent one)."""
        if self._has_template is None:
            from gguf import GGUFReader

            fields = GGUFReader(self._server.path).fields
            self._has_template = "tokenizer.chat_template" in fields
        if not self._has_template:
            return None
        return str(self._server.ask("/apply-template", {"messages": messages})["prompt"])

    def num_tokens(self, texts: list[str]) -> list[int]:
        """Tokens of each text as a prompt."""
        return [len(self._prompt(text)) for text in texts]

    def write(
        self, requests: list[Request], done: Callable[[list[int], list[Written]], None], label: str
    ) -> None:
        """Continue every prompt, in order. Raises UserError when one does not fit the context."""
        prompts = [self._prompt(request.prompt) for request in requests]
        sizes = [
            len(ids) + request.max_new_tokens
            for ids, request in zip(prompts, requests, strict=True)
        ]
        require_room(sizes, self.context, self._server.path, ROOM)
        pairs = enumerate(zip(prompts, requests, strict=True))
        for index, (ids, request) in progress.track(pairs, label, len(requests)):
            done([index], [self._write(ids, request)])

    def _write(self, ids: list[int], request: Request) -> Written:
        if request.max_new_tokens < 1:
            return Written("", 0, False)
        found = self._server.ask("/completion", {
            "prompt": ids, "n_predict": request.max_new_tokens, "stop": list(request.stop),
            "temperature": request.temperature, "samplers": ["temperature", "top_p"],
            "top_p": request.top_p, "seed": request.seed & 0x7FFFFFFF, "return_tokens": True,
            "cache_prompt": False,
            # Control tokens are seen as text only if told, so none could be a stop text.
            "preserved_tokens": list(request.stop),
        })  # fmt: skip
        # An end token was predicted, but is no part of the answer.
        ended = found["stop_type"] == "eos" or self._is_control(str(found["stopping_word"]))
        size = int(found["tokens_predicted"]) - ended
        return Written(str(found["content"]), size, found["stop_type"] in ("eos", "word"))

    def _is_control(self, text: str) -> bool:
        if text not in self._control:
            own = self._ids(text, False), self._ids(text, False, control=False)
            self._control[text] = len(own[0]) == 1 and own[0] != own[1]
        return self._control[text]

    def likelihood(
        self, queries: list[Query], done: Callable[[list[int], list[Likelihood]], None], label: str
    ) -> None:
        """Score continuations token by token, each after those before it."""
        pairs = []
        for query in queries:
            head = query.prompt.rstrip()
            first = self._prompt(head) if head else self._start()
            # Continuations are cut as parts of the whole text, as with the other backends.
            whole = self._prompt(query.prompt + query.continuation)
            skip = len(first) if head or self._lead else 0
            if not whole[skip:]:
                shown = repr(query.prompt[-20:] + query.continuation)
                raise UserError(shown, "a continuation without a token of its own", "a longer one")
            pairs.append((first, whole[skip:]))
        sizes = [len(ids) + len(end) for ids, end in pairs]
        require_room(sizes, self.context, self._server.path, ROOM)
        turns = enumerate(pairs)
        for index, (ids, end) in progress.track(turns, label, len(pairs)):
            done([index], [self._score(ids, end)])

    def _score(self, ids: list[int], end: list[int]) -> Likelihood:
        nats, greedy = 0.0, True
        for place, token in enumerate(end):
            best, found = self._after([*ids, *end[:place]], token, place > 0)
            nats, greedy = nats + found, greedy and best == token
        return Likelihood(min(nats, 0.0), len(end), greedy)

    def _after(self, ids: list[int], token: int, cached: bool) -> tuple[int, float]:
        """The likeliest next token, and the log-probability of one."""
        for count in (min(FIRST_LOOK, self._vocab), self._vocab):
            # The server says nothing of a token that ends inside a character, so that its own
            # next one is forced to be "a" by a bias, which the probabilities do not contain.
            body = {"prompt": ids, "n_predict": 1, "n_probs": count, "temperature": 0.0,
                    "cache_prompt": cached, "logit_bias": [[self._probe, 1e6]]}  # fmt: skip
            rows = self._server.ask("/completion", body).get("completion_probabilities", [])
            tops = {int(top["id"]): float(top["logprob"]) for row in rows[:1]
                    for top in row["top_logprobs"]}  # fmt: skip
            if token in tops:
                return max(tops, key=tops.__getitem__), tops[token]
        raise UserError(self._server.path, f"llama.cpp gives no probability of token {token}",
                        "the transformers backend")  # fmt: skip

    def close(self) -> None:
        """End llama.cpp."""
        self._server.close()
