"""Every backend: the same promises, kept on a pico model (or what stands in for its server)."""

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.models.backend import Backend, Likelihood, Query, Request, Written
from tests.models import test_backends_openai, test_backends_vllm
from tests.pico import pico_llama

NAMES = registry.names("backend")
OPTIONAL = ("vllm", "xllamacpp", "gguf", "httpx", "jinja2")
REQUESTS = [
    Request("The quick", 6), Request("1+1=", 3, stop=("a", "e", " ")), Request("", 4),
    Request("The quick", 6, temperature=1.0, top_p=0.9, seed=3), Request("x" * 30, 1),
]  # fmt: skip
QUERIES = [Query("The", " fox"), Query("The", " A"), Query("1+1=", "2."), Query("1+1= ", "3")]


def _server(folder: Path) -> Iterator[Backend]:
    def answer(path: str, body: dict[str, Any]) -> Any:
        if body.get("echo"):
            return 200, {}, test_backends_openai.logprobs(list(body["prompt"]))
        text = body["prompt"][: body["max_tokens"]]
        choice = {"text": text, "finish_reason": "length"}
        return 200, {}, {"choices": [choice], "usage": {"completion_tokens": len(text)}}

    server = test_backends_openai.Server(answer)
    yield registry.load("backend", "openai")("m", url=server.url)
    server.http.shutdown()
    server.http.server_close()


def _gguf(folder: Path) -> Iterator[Backend]:
    pytest.importorskip("xllamacpp")
    made = registry.load("export-target", "gguf")(folder, folder.parent / "m.gguf", quantize="f32")
    yield registry.load("backend", "llama_cpp")(str(made), context=128)


def _vllm(folder: Path) -> Iterator[Backend]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vllm", test_backends_vllm.module())
        yield registry.load("backend", "vllm")(str(folder))


# A backend that is not named here opens a checkpoint folder.
OPENERS: dict[str, Callable[[Path], Iterator[Backend]]] = {
    "openai": _server, "llama_cpp": _gguf, "vllm": _vllm,
}  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def backend(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = pico_llama(tmp_path_factory.mktemp(request.param) / "m", seed=4)
    opener = OPENERS.get(request.param)
    if opener is None:
        made: Backend = registry.load("backend", request.param)(str(folder))
        yield made
        made.close()
        return
    for made in opener(folder):
        yield made
        made.close()


def collect(ask: Callable[..., None], asked: list[Any]) -> list[Any]:
    """Answers in order; each index comes exactly once."""
    found: dict[int, Any] = {}

    def done(indices: list[int], answers: list[Any]) -> None:
        assert len(indices) == len(answers) > 0
        assert not set(indices) & set(found)
        found.update(zip(indices, answers, strict=True))

    ask(asked, done, "")
    assert sorted(found) == list(range(len(asked)))
    return [found[index] for index in range(len(asked))]


def test_is_a_backend(backend: Backend) -> None:
    assert isinstance(backend, Backend)
    assert isinstance(backend.identity, str)
    assert len(backend.identity) == 64
    assert backend.context > 0
    assert isinstance(backend.chat([{"role": "user", "content": "hi"}]), str | None)
    sizes = backend.num_tokens(["The quick brown fox", "The"])
    assert sizes[0] > sizes[1] > 0
    assert backend.num_tokens([]) == []


def test_writes_within_budget_and_the_same_again(backend: Backend) -> None:
    found = collect(backend.write, REQUESTS)
    for one, request in zip(found, REQUESTS, strict=True):
        assert isinstance(one, Written)
        assert 0 <= one.num_tokens <= request.max_new_tokens
        assert not any(stop in one.text for stop in request.stop)
        assert one.finished or one.num_tokens == request.max_new_tokens or not request.prompt
    assert collect(backend.write, REQUESTS) == found
    assert collect(backend.write, []) == []
    assert any(one.text for one in found)


def test_likelihoods(backend: Backend) -> None:
    found = collect(backend.likelihood, QUERIES)
    for one in found:
        assert isinstance(one, Likelihood)
        assert one.nats <= 0
        assert one.num_tokens > 0
    assert len({one.nats for one in found}) > 1
    assert collect(backend.likelihood, QUERIES) == found
    assert collect(backend.likelihood, []) == []


@pytest.mark.parametrize("name", NAMES)
def test_options_have_defaults_and_are_documented(name: str) -> None:
    make = registry.load("backend", name)
    positional = [
        parameter.name
        for parameter in inspect.signature(make).parameters.values()
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert positional == ["model"]
    text = inspect.getdoc(make) or ""
    for parameter in registry.schema(make):
        assert not parameter.required
        assert parameter.name in text or parameter.name in ("device", "batch_size")
        registry.check_keywords("backend", name, {parameter.name: parameter.default}, "options")
    with pytest.raises(UserError, match=r"options\.nonsense: unknown key"):
        registry.check_keywords("backend", name, {"nonsense": 1}, "options")


@pytest.mark.parametrize("name", NAMES)
def test_the_file_loads_without_its_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in OPTIONAL:
        monkeypatch.setitem(sys.modules, package, None)
    spec = importlib.util.find_spec(registry.load("backend", name).__module__)
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert callable(vars(fresh)[name])


def test_no_key_in_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("sk-one", "sk-two"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        made = registry.load("backend", "openai")("m")
        assert key not in str(vars(made))
        assert made.identity == registry.load("backend", "openai")("m").identity
    assert os.environ["OPENAI_API_KEY"] == "sk-two"
