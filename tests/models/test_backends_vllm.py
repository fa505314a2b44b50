"""The vllm backend in vLLM's own words: a stand-in for the package, whose classes take the names
and values that vLLM's take and nothing else, answers with a real pico network. vLLM itself needs an
accelerator and is not run here."""

import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from smelt.core.errors import UserError
from smelt.models.backend import Query, Request
from smelt.models.backends.transformers import transformers
from smelt.models.backends.vllm import vllm
from tests.models.architectures import greedy_ids
from tests.models.asking import ask, likelihoods
from tests.pico import pico_llama

PROMPTS = ["The quick", "1+1=", "", "max[352]*1-2="]


@dataclass
class SamplingParams:
    """Those fields of vLLM's that are set here, with its defaults and its checks."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        assert type(self.temperature) is float
        assert self.temperature >= 0
        assert 0 < self.top_p <= 1
        assert self.seed is None or type(self.seed) is int
        assert isinstance(self.stop, list | None)
        assert all(isinstance(text, str) and text for text in self.stop or [])
        assert self.max_tokens is not None
        assert self.max_tokens >= 1
        # Greedy sampling resets what it does not use.
        assert self.temperature or self.top_p == 1.0


@dataclass
class Logprob:
    """As in vllm.logprobs."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    """As in vllm.outputs, as far as it is read."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    """As in vllm.outputs, as far as it is read."""

    request_id: str
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput] = field(default_factory=list)


class LLM:
    """vllm.LLM: constructor and `generate`, answered by transformers."""

    made: "list[LLM]" = []  # noqa: RUF012

    def __init__(
        self, model: str, *, tokenizer: str | None = None, trust_remote_code: bool = False,
        tensor_parallel_size: int = 1, dtype: str = "auto", seed: int | None = None,
        gpu_memory_utilization: float = 0.9, max_model_len: int | None = None,
        enable_prefix_caching: bool | None = None,
    ) -> None:  # fmt: skip
        assert not trust_remote_code
        self.backend: Any = transformers(model)
        self.dtype, self.parallel, self.memory = dtype, tensor_parallel_size, gpu_memory_utilization
        config = SimpleNamespace(max_model_len=max_model_len or self.backend.context)
        self.llm_engine = SimpleNamespace(model_config=config)
        self.calls: list[list[SamplingParams]] = []
        LLM.made.append(self)

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: list[SamplingParams], *,
        use_tqdm: bool = True, lora_request: Any = None,
    ) -> list[RequestOutput]:  # fmt: skip
        assert not use_tqdm
        assert len(prompts) == len(sampling_params)
        self.calls.append(sampling_params)
        found = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            assert list(prompt) == ["prompt_token_ids"]
            assert isinstance(params, SamplingParams)
            found.append(self._one(prompt["prompt_token_ids"], params))
        return found

    def _one(self, ids: list[int], params: SamplingParams) -> RequestOutput:
        assert ids
        network, prompts = self.backend.model, self.backend.prompts
        with torch.no_grad():
            scores = network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        rows: list[dict[int, Logprob] | None] = [None]
        for row, token in zip(scores[:-1], ids[1:], strict=True):
            rank = int((row > row[token]).sum()) + 1
            best = int(row.argmax())
            rows.append(
                {best: Logprob(float(row[best]), 1), token: Logprob(float(row[token]), rank)}
            )
        made: list[int] = []
        ends = {prompts.tokenizer.eos_id, *(params.stop_token_ids or [])}
        output = CompletionOutput(0, "", made)
        for _ in range(params.max_tokens or 0):
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([ids + made])).logits
            made.append(int(logits[0, -1].argmax()))
            text = prompts.decode(made)
            stop = next((stop for stop in params.stop or [] if stop in text), None)
            if made[-1] in ends:
                eos = made[-1] == prompts.tokenizer.eos_id
                output.finish_reason, output.stop_reason = "stop", None if eos else made[-1]
                output.text = prompts.decode(made[:-1])
                break
            output.text = text.partition(stop)[0] if stop else text
            if stop:
                output.finish_reason, output.stop_reason = "stop", stop
                break
        else:
            output.finish_reason = "length"
        kept = rows if params.prompt_logprobs is not None else None
        return RequestOutput("0", ids, kept, [output])


def module() -> ModuleType:
    """The stand-in for the package."""
    made: Any = ModuleType("vllm")
    made.__spec__, made.__version__ = ModuleSpec("vllm", None), "0.10.0"
    made.LLM, made.SamplingParams = LLM, SamplingParams
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_llama(tmp_path_factory.mktemp("v") / "m", seed=4)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", module())
    LLM.made.clear()


@pytest.mark.usefixtures("package")
def test_answers_as_the_network_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smelt.models.backends.vllm.TURN", 3)
    backend, own = vllm(str(folder), dtype="float32", memory=0.5), transformers(str(folder))
    plain = ask(own, [Request(prompt, 12) for prompt in PROMPTS])
    stops = [plain[0].text[2:4], "", "never there"]
    requests = [Request(prompt, 12, tuple(stops)) for prompt in PROMPTS]
    assert ask(backend, requests) == ask(own, requests)
    drawn = Request("The", 5, temperature=0.7, top_p=0.9, seed=12)
    ask(backend, [drawn])
    engine = LLM.made[0]
    assert (engine.dtype, engine.parallel, engine.memory) == ("float32", 1, 0.5)
    assert [len(call) for call in engine.calls] == [3, 1, 1]
    assert engine.calls[0][0].stop == [stops[0], "never there"]
    last = engine.calls[-1][0]
    assert (last.temperature, last.top_p, last.seed, last.max_tokens) == (0.7, 0.9, 12, 5)


@pytest.mark.usefixtures("package")
def test_ends_by_control_tokens(folder: Path) -> None:
    backend: Any = vllm(str(folder))
    own: Any = transformers(str(folder))
    token = greedy_ids(own.model, own.prompts.encode(["The"])[0], 4)[3]
    for one in (backend._prompts, own.prompts):
        one.special["<ctrl>"] = token
    request = Request("The", 12, stop=("<ctrl>",))
    assert ask(backend, [request]) == ask(own, [request])
    assert ask(own, [request])[0].finished


@pytest.mark.usefixtures("package")
def test_likelihoods(folder: Path) -> None:
    backend = vllm(str(folder))
    own: Any = transformers(str(folder))
    queries = [Query(prompt, end) for prompt in PROMPTS for end in (" A", "2.", " fox jumps")]
    # One more whose continuation is what greedy decoding writes, if that reads back as written.
    encode, decode = own.prompts.encode, own.prompts.decode
    for prompt in map(str, range(99)):
        ids = encode([prompt])[0]
        best = greedy_ids(own.model, ids, 1)
        if encode([prompt + decode(best)])[0] == ids + best:
            queries.append(Query(prompt, decode(best)))
            break
    both = [likelihoods(one, queries) for one in (backend, own)]
    for ours, wanted in zip(*both, strict=True):
        assert ours.nats == pytest.approx(wanted.nats, abs=1e-4)
        assert (ours.num_tokens, ours.greedy) == (wanted.num_tokens, wanted.greedy)
    assert both[0][-1].greedy


@pytest.mark.usefixtures("package")
def test_room_and_identity(folder: Path) -> None:
    backend = vllm(str(folder), context=40)
    assert backend.context == 40
    with pytest.raises(UserError, match="at most 40"):
        ask(backend, [Request("1" * 30, 12)])
    with pytest.raises(UserError, match="at most 40"):
        backend.likelihood([Query("1" * 39, "2")], lambda *_: None, "")
    assert backend.identity == vllm(str(folder)).identity
    assert backend.identity != vllm(str(folder), dtype="bfloat16").identity
    assert backend.identity != transformers(str(folder)).identity


def test_without_the_package(folder: Path) -> None:
    assert "vllm" not in sys.modules
    with pytest.raises(UserError, match=r"vllm: not installed\. .*pip install 'smelt\[vllm\]'"):
        vllm(str(folder))
