"""Models by their config.json alone: their tensors, bad files, who gets the hub's token."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from huggingface_hub import close_session
from transformers import AutoConfig, AutoModelForCausalLM

from smelt.core.errors import UserError
from smelt.models import by_config
from smelt.models.by_config import num_parameters, shapes_of
from smelt.models.load import count_parameters, network_of

SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30,
         "intermediate_size": 16, "head_dim": 4, "num_key_value_heads": 2,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
GPT2 = {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 30, "n_positions": 16,
        "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "head"),
    [
        ("llama", SMALL, True),  # none of these says whether its head is tied
        ("gemma", SMALL, False),
        ("gpt2", GPT2, False),
        ("llama", SMALL | {"tie_word_embeddings": True}, False),
        ("gemma", SMALL | {"tie_word_embeddings": False}, True),
    ],
)
def test_a_tied_head_counts_once(kind: str, config: dict[str, Any], head: bool) -> None:
    shapes = shapes_of({"model_type": kind, **config}, "r")
    assert ("lm_head.weight" in shapes) == head
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
    assert num_parameters(shapes) == count_parameters(theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": "x"}, "cannot be read .*num_hidden_layers"),
        ({"num_attention_heads": 0}, "cannot be"),
        ({"hidden_size": 7}, "cannot be read .*not a multiple"),
        ({"rope_parameters": "a"}, "cannot be read"),
        ({"quantization_config": 3}, "cannot be"),
        ({"dtype": "zzz"}, "cannot be"),
        ({"pad_token_id": 999}, "cannot be built .*adding_idx"),
        ({"vocab_size": -3}, "cannot be built"),
        ({"model_type": "llamma"}, "model_type 'llamma'"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\]"),
    ],
)
def test_a_bad_config_is_one_sentence(change: dict[str, Any], message: str) -> None:
    config = {"model_type": "llama", **SMALL, **change}
    with pytest.raises(UserError, match=message):
        shapes_of(config, "r")
    with pytest.raises(UserError, match=message):
        network_of(config, [], torch.device("cpu"))


Asked = list[tuple[str, str | None]]
"""Paths that a server was asked for, with the key that came along."""
Reply = Callable[[str], tuple[int, dict[str, str], bytes]]


class Server:
    """Answers on a port of this machine, and remembers what it was asked."""

    def __init__(self, reply: Reply) -> None:
        asked: Asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, self.headers.get("Authorization")))
                status, headers, body = reply(self.path)
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self.asked = asked

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:  # of a client that did not wait
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


Serve = Callable[[Reply], Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers, of which the first is the hub, for a user who is logged in."""
    made: list[Server] = []

    def start(reply: Reply) -> Server:
        made.append(Server(reply))
        hub = made[0].url
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub)
        monkeypatch.setattr(
            by_config, "hf_hub_url", lambda name, file: f"{hub}/{name}/resolve/main/{file}"
        )
        return made[-1]

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    by_config._hub_answers.cache_clear()
    close_session()
    yield start
    close_session()
    by_config._hub_answers.cache_clear()
    for server in made:
        server.close()


PLACE = "/a/b/resolve/main/config.json"
CONFIG = json.dumps({"model_type": "llama"}).encode()


def test_the_hub_gets_the_token_and_another_host_does_not(serve: Serve) -> None:
    hub = serve(lambda path: (307 if path == PLACE else 200, {"Location": other.url + "/m"}, b""))
    other = serve(lambda path: (200, {}, CONFIG))
    assert by_config._hub_config("a/b") == {"model_type": "llama"}
    assert (PLACE, "Bearer hf_secret") in hub.asked
    assert other.asked == [("/m", None)]


def test_a_renamed_model_is_followed_on_the_hub(serve: Serve) -> None:
    """A redirect within the hub keeps the token: the model may be gated."""
    hub = serve(
        lambda path: (307, {"Location": "/new"}, b"") if path == PLACE else (200, {}, CONFIG)
    )
    assert by_config._hub_config("a/b") == {"model_type": "llama"}
    assert hub.asked[-2:] == [(PLACE, "Bearer hf_secret"), ("/new", "Bearer hf_secret")]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, CONFIG),
        (404, CONFIG),
        (500, CONFIG),
        (200, b"<html>"),
        (200, b"[1]"),
        (200, b"[" * 100_000),
        (200, json.dumps({"model_type": "x" * (1 << 20)}).encode()),
    ],
    ids=["no token", "no model", "fault", "page", "list", "deep", "large"],
)
def test_what_is_no_config_of_the_hub_is_none(serve: Serve, status: int, body: bytes) -> None:
    hub = serve(lambda path: (status, {}, body))
    assert by_config._hub_config("a/b") is None
    assert hub.asked[-1][0] == PLACE


def test_a_silent_hub_is_not_waited_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_config, "HUB_SECONDS", 0.2)
    done = threading.Event()

    def reply(path: str) -> tuple[int, dict[str, str], bytes]:
        if path == PLACE:
            done.wait(30)
        return 200, {}, b""

    serve(reply)
    assert by_config._hub_config("a/b") is None
    done.set()


def test_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refused() -> None:
        calls.append(1)
        raise OSError("no net")

    monkeypatch.setattr(by_config, "get_session", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    by_config._hub_answers.cache_clear()
    assert not by_config._hub_answers()
    assert not by_config._hub_answers()
    assert len(calls) == 1
    by_config._hub_answers.cache_clear()
