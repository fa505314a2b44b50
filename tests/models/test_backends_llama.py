"""The llama_cpp backend on an exported pico model, beside the network it was made from."""

import json
from pathlib import Path
from typing import Any

import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.models.backend import Query, Request, Written
from smelt.models.backends.llama_cpp import llama_cpp
from smelt.models.backends.transformers import transformers
from tests.models.asking import ask, likelihoods
from tests.pico import pico_llama

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

PROMPTS = ["The quick", "1+1=", "max[352]*1-2=", ""]
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def write_gguf(folder: Path, template: str | None = None) -> Path:
    """A pico Llama as a GGUF file in float32, beside its checkpoint folder `m`."""
    model = pico_llama(folder / "m", seed=4)
    if template is not None:
        path = model / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    path: Path = registry.load("export-target", "gguf")(model, folder / "m.gguf", quantize="f32")
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf"), TEMPLATE)


@pytest.fixture(scope="module")
def both(file: Path) -> Any:
    backend = llama_cpp(str(file), context=128)
    yield backend, transformers(str(file.parent / "m"))
    backend.close()


def test_writes_what_the_network_writes(both: Any) -> None:
    ours, wanted = (ask(backend, [Request(p, 10) for p in PROMPTS]) for backend in both)
    for one, other in zip(ours, wanted, strict=True):
        if "\ufffd" not in other.text:  # llama.cpp leaves out a last half of a character
            assert one.text == other.text
        assert (one.num_tokens, one.finished) == (other.num_tokens, other.finished)
    pieces = [
        (prompt, one.text[place : place + 2])
        for prompt, one in zip(PROMPTS, wanted, strict=True)
        for place in range(1, len(one.text) - 2)
    ]
    stops = [pair for pair in pieces if pair[1].isascii() and len(pair[1]) == 2]
    assert stops
    requests = [Request(prompt, 10, stop=("never there", stop)) for prompt, stop in stops]
    assert ask(both[0], requests) == ask(both[1], requests)
    assert ask(both[0], [Request("x", 0)]) == [Written("", 0, False)]


def test_a_control_token_as_stop_text(both: Any) -> None:
    backend, network = both
    assert "<|pad|>" in network.prompts.special
    asked = backend._server.ask

    def padding(route: str, body: Any = None) -> Any:
        forced = {"logit_bias": [[network.prompts.special["<|pad|>"], 1e6]]}
        return asked(route, body | forced if route == "/completion" else body)

    backend._server.ask = padding
    try:
        stopped, other = ask(backend, [Request("The", 4, stop=("<|pad|>",)), Request("The", 4)])
    finally:
        del backend._server.ask
    assert stopped == Written("", 0, True)
    assert other == Written("", 4, False)


def test_draws_repeat_by_seed(both: Any) -> None:
    requests = [Request("The", 8, temperature=1.2, top_p=0.95, seed=seed) for seed in (1, 2, 1)]
    first, second, third = ask(both[0], requests)
    assert first == third
    assert first != second


def test_likelihoods_are_the_network_s(both: Any) -> None:
    queries = [
        Query(prompt, end) for prompt in PROMPTS for end in (" A", "2.", " fox jumps", " é", "=")
    ]
    found = [likelihoods(backend, queries) for backend in both]
    for one, other in zip(*found, strict=True):
        assert one.nats == pytest.approx(other.nats, abs=2e-3)
        assert (one.num_tokens, one.greedy) == (other.num_tokens, other.greedy)
    with pytest.raises(UserError, match="without a token of its own"):
        both[0].likelihood([Query("a", "")], lambda *_: None, "")


def test_template_sizes_and_identity(both: Any, file: Path, tmp_path: Path) -> None:
    backend, network = both
    messages = [{"role": "user", "content": "hi"}]
    assert backend.chat(messages) == network.chat(messages) == "[user]hi[assistant]"
    assert backend.num_tokens(PROMPTS) == network.num_tokens(PROMPTS)
    assert backend.context == 128
    with pytest.raises(UserError, match="at most 128"):
        backend.write([Request("1" * 99, 60)], lambda *_: None, "")
    bare = llama_cpp(str(write_gguf(tmp_path)), context=64)
    try:
        assert bare.chat(messages) is None
        assert bare.context == 64
        assert bare.identity != backend.identity
    finally:
        bare.close()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        llama_cpp(str(tmp_path / "none.gguf"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match=r"llama\.cpp cannot load it"):
        llama_cpp(str(tmp_path / "bad.gguf"))
