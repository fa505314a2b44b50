"""A checkpoint folder or hub model in vLLM, on its accelerators."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from smelt.checkpoint.reader import find_folder
from smelt.core import digest, progress
from smelt.core.errors import needs
from smelt.models.backend import (
    Backend,
    Likelihood,
    Message,
    Query,
    Request,
    Written,
    require_room,
)
from smelt.models.prefix import Row, ordered
from smelt.models.prompts import Prompts
from smelt.models.source import identity_of

VERSION = 1
# Requests handed over at once; vLLM forms its own batches of them. Answers are kept after each.
TURN = 2048


def vllm(
    model: str,
    *,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    tensor_parallel: Annotated[int, Field(gt=0)] = 1,
    memory: Annotated[float, Field(gt=0, le=1)] = 0.9,
    context: Annotated[int, Field(gt=0)] | None = None,
) -> Backend:
    """Load a model into vLLM. Its batches depend on timing, so near ties may fall either way.

    dtype: auto takes that of the config; tensor_parallel: accelerators that share the weights;
    memory: share of the accelerator's memory; context: the model's own unless given.
    Raises UserError when vLLM is not installed or the folder is no checkpoint.
    """
    if find_spec("vllm") is None:
        raise needs("vllm", "vllm")
    import vllm as library

    folder = find_folder(model)
    engine = library.LLM(
        model=str(folder), tokenizer=str(folder), trust_remote_code=False, dtype=dtype, seed=0,
        tensor_parallel_size=tensor_parallel, gpu_memory_utilization=memory,
        max_model_len=context, enable_prefix_caching=True,
    )  # fmt: skip
    facts = ["vllm", VERSION, library.__version__, tensor_parallel]
    identity = digest.value([*facts, identity_of(folder, dtype)])
    return Vllm(library, engine, Prompts(folder), identity)


class Vllm:
    """See `vllm`."""

    def __init__(self, library: Any, engine: Any, prompts: Prompts, identity: str) -> None:
        self._library, self._engine, self._prompts = library, engine, prompts
        self.identity = identity
        self.context = int(engine.llm_engine.model_config.max_model_len)

    def chat(self, messages: list[Message]) -> str | None:
        """The prompt of a conversation by the folder's chat template; None: it has none."""
        return self._prompts.chat(messages)

    def num_tokens(self, texts: list[str]) -> list[int]:
        """Tokens of each text as a prompt."""
        return [len(ids) for ids in self._prompts.encode(texts)]

    def write(
        self, requests: list[Request], done: Callable[[list[int], list[Written]], None], label: str
    ) -> None:
        """Continue every prompt. Raises UserError when one does not fit the context."""
        encoded = self._prompts.encode([request.prompt for request in requests])
        params = [self._drawn(request) for request in requests]
        sizes = [
            len(ids) + request.max_new_tokens
            for ids, request in zip(encoded, requests, strict=True)
        ]
        require_room(sizes, self.context, self._prompts.folder)
        for part, outputs in self._turns(encoded, params, label):
            done(part, [_written(output.outputs[0]) for output in outputs])

    def _drawn(self, request: Request) -> Any:
        special = self._prompts.special
        return self._library.SamplingParams(
            max_tokens=request.max_new_tokens, temperature=request.temperature,
            top_p=request.top_p if request.temperature else 1.0,
            seed=request.seed if request.temperature else None,
            stop=[text for text in request.stop if text and text not in special],
            stop_token_ids=[special[text] for text in request.stop if text in special],
        )  # fmt: skip

    def likelihood(
        self, queries: list[Query], done: Callable[[list[int], list[Likelihood]], None], label: str
    ) -> None:
        """Score every continuation. Raises UserError when one does not fit the context."""
        pairs = self._prompts.pairs([(query.prompt, query.continuation) for query in queries])
        whole = [[*prompt, *end] for prompt, end in pairs]
        # vLLM always writes a token.
        require_room([len(ids) + 1 for ids in whole], self.context, self._prompts.folder)
        params = self._library.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1)
        for part, outputs in self._turns(whole, [params] * len(whole), label):
            found = []
            for index, output in zip(part, outputs, strict=True):
                end = pairs[index][1]
                rows = output.prompt_logprobs[-len(end) :]
                own = [row[token] for row, token in zip(rows, end, strict=True)]
                nats = min(sum(float(one.logprob) for one in own), 0.0)
                found.append(Likelihood(nats, len(end), all(one.rank == 1 for one in own)))
            done(part, found)

    def _turns(
        self, encoded: list[list[int]], params: list[Any], label: str
    ) -> Iterator[tuple[list[int], list[Any]]]:
        rows = [Row(index, ids, 0) for index, ids in enumerate(encoded)]
        order = [row.index for row in ordered(rows)]
        parts = [order[start : start + TURN] for start in range(0, len(order), TURN)]
        for part in progress.track(parts, label, len(parts)):
            prompts = [{"prompt_token_ids": encoded[index]} for index in part]
            chosen = [params[index] for index in part]
            yield part, self._engine.generate(prompts, chosen, use_tqdm=False)

    def close(self) -> None:
        """Let go of the engine, which frees the accelerator."""
        self._engine = None


def _written(output: Any) -> Written:
    # An end token (then stop_reason is None or its id) was written, but is no part of the answer.
    ended = output.finish_reason == "stop"
    by_token = ended and not isinstance(output.stop_reason, str)
    size = len(output.token_ids) - by_token
    return Written(str(output.text), size, ended)
