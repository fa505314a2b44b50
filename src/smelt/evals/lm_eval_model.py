"""A backend of ours as the model that lm-evaluation-harness asks."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from smelt.core.errors import UserError
from smelt.core.seed import seed_for
from smelt.evals.answers import Store, likelihood_all, write_all
from smelt.models.backend import Backend, Message, Query, Request, Written

# What lm-eval gives an answer whose task says nothing.
DEFAULT_BUDGET = 256
BUDGETS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# Keywords that change nothing at these values; any other keyword is refused, never ignored.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "repetition_penalty": (1, None), "top_k": (0, -1, None),
    "length_penalty": (1, None), "early_stopping": (False, None), "num_return_sequences": (1,),
    "use_cache": (True, None), "min_p": (0, None), "presence_penalty": (0, None),
    "frequency_penalty": (0, None), "no_repeat_ngram_size": (0, None),
}  # fmt: skip
OF_DRAWING = ("top_k", "min_p")


class Asked:
    """The three methods of lm-eval's LM over a backend; `new` joins it with that class.

    written: task and document -> what was written for it, in the order asked; cut: the prompts
    that lost their beginning because the model's context is too short.
    """

    def __init__(
        self, backend: Backend, store: Store | None, *, label: str, where: str, seed: int
    ) -> None:
        super().__init__()
        self.own, self.store, self.label = backend, store, label
        self.place, self.seed = where, seed
        self.written: dict[tuple[str, int], list[Written]] = {}
        self.cut: set[tuple[str, int]] = set()

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval keeps prompts of chat templates by."""
        return self.own.identity

    def apply_chat_template(
        self, chat_history: list[Message], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as prompt text; without a generation prompt its last message, the
        beginning of an answer, is left open."""
        asked = chat_history if add_generation_prompt else chat_history[:-1]
        text = self.own.chat(asked)
        if text is None:
            raise UserError(self.place, "a model without a chat template", "form: base")
        return text if add_generation_prompt else text + chat_history[-1]["content"]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The texts written for lm-eval's requests, each up to its stop text."""
        asked, repeats = [], Counter[tuple[str, int, int]]()
        for request in requests:
            prompt, keywords = request.args[:2]
            key = (request.task_name, request.doc_id, request.idx)
            plain = to_request(prompt, keywords, self.own.context, self.place)
            room = self.own.context - plain.max_new_tokens
            fitted = fit(self.own, prompt, "", room)
            if fitted != prompt:
                self.cut.add(key[:2])
            own = seed_for(self.seed, *map(str, (*key, repeats[key]))) if plain.temperature else 0
            repeats[key] += 1
            asked.append(Request(fitted, plain.max_new_tokens, plain.stop,
                                 plain.temperature, plain.top_p, own))  # fmt: skip
        found = write_all(self.own, asked, self.label, self.store)
        for request, written in zip(requests, found, strict=True):
            self.written.setdefault((request.task_name, request.doc_id), []).append(written)
        return [written.text for written in found]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it was the likeliest throughout."""
        queries = []
        for request in requests:
            prompt, continuation = request.args[:2]
            # As lm-eval does: blanks at the seam belong to the continuation.
            bare = prompt.rstrip()
            continuation = prompt[len(bare) :] + continuation
            fitted = fit(self.own, bare, continuation, self.own.context)
            if fitted != bare:
                self.cut.add((request.task_name, request.doc_id))
            queries.append(Query(fitted, continuation))
        found = likelihood_all(self.own, queries, self.label, self.store)
        return [(one.nats, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Log-probability of each whole text, in windows of the context where it is longer."""
        windows = [rolling(self.own, request.args[0]) for request in requests]
        asked = [window for own in windows for window in own]
        found = iter(likelihood_all(self.own, asked, self.label, self.store))
        return [sum(next(found).nats for _ in own) for own in windows]


def new(backend: Backend, store: Store | None, *, label: str, where: str, seed: int) -> Any:
    """The model for lm_eval.evaluator.evaluate. Needs lm-eval."""
    from lm_eval.api.model import LM

    made: Callable[..., Any] = type("SmeltModel", (Asked, LM), {})
    return made(backend, store, label=label, where=where, seed=seed)


def to_request(prompt: str, keywords: dict[str, Any], context: int, where: str) -> Request:
    """lm-eval's generation keywords as a request: greedy unless it says do_sample or gives a
    temperature. Raises UserError for a keyword that a backend cannot follow."""
    left = dict(keywords)
    until = left.pop("until", None) or []
    stop = (until,) if isinstance(until, str) else tuple(text for text in until if text)
    given = [left.pop(key) for key in BUDGETS if left.get(key) is not None]
    temperature = float(left.pop("temperature", None) or 0.0)
    sample = left.pop("do_sample", None)
    if sample is False:
        temperature = 0.0
    elif sample and not temperature:
        # transformers draws at temperature 1 where a task says do_sample and no more.
        temperature = 1.0
    top_p = left.pop("top_p", None)
    for key in BUDGETS:
        left.pop(key, None)
    for key, value in left.items():
        harmless = value in NEUTRAL.get(key, ()) or (key in OF_DRAWING and not temperature)
        if key not in NEUTRAL or not harmless:
            known = f"until, {', '.join(BUDGETS)}, do_sample, temperature, top_p"
            raise UserError(f"{where}: generation_kwargs.{key}", f"found {value!r}", known)
    budget = int(given[0]) if given else DEFAULT_BUDGET
    # lm-eval refuses a budget that fills the context; half of it is left to the question here.
    budget = budget if budget < context else max(1, context // 2)
    if not temperature or top_p is None:
        return Request(prompt, budget, stop, temperature)
    return Request(prompt, budget, stop, temperature, float(top_p))


def fit(backend: Backend, prompt: str, continuation: str, room: int) -> str:
    """The longest end of a prompt that with its continuation has at most `room` tokens."""
    # A token is at least a byte (begin and end of text aside), so most texts need no counting.
    if len((prompt + continuation).encode()) + 2 <= room:
        return prompt

    def size(start: int) -> int:
        return backend.num_tokens([prompt[start:] + continuation])[0]

    if size(0) <= room:
        return prompt
    low, high = 0, len(prompt)  # too long at low, assumed to fit at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) > room else (low, middle)
    return prompt[high:]


def rolling(backend: Backend, text: str) -> list[Query]:
    """A text as windows in which each of its characters is predicted once.

    Each window but the last sees no more than the word before it, the last as much as fits: as
    lm-eval's windows of tokens, but cut at blanks, so that a text longer than the context can
    differ by the tokens at the seams.
    """
    windows: list[Query] = []
    begin = 0
    while begin < len(text):
        head = "" if not begin else text[:begin].split()[-1] if text[:begin].split() else ""
        end = _end(backend, text, begin, head)
        if end == len(text) and begin:
            head = fit(backend, text[:begin], text[begin:], backend.context)
        windows.append(Query(head, text[begin:end]))
        begin = end
    return windows


def _end(backend: Backend, text: str, begin: int, head: str) -> int:
    """Where the window that begins here must end, before a blank if there is one."""

    def size(end: int) -> int:
        return backend.num_tokens([head + text[begin:end]])[0]

    room = backend.context
    if len((head + text[begin:]).encode()) + 2 <= room or size(len(text)) <= room:
        return len(text)
    low, high = begin + 1, len(text)  # fits at low, too long at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if size(middle) > room else (middle, high)
    blanks = [place for place in range(begin + 1, low + 1) if text[place].isspace()]
    return blanks[-1] if blanks else low
