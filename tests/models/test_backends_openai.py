"""The openai backend against a small server in this process, and against llama.cpp's."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from smelt.core.errors import UserError
from smelt.models.backend import Backend, Likelihood, Query, Request, Written
from smelt.models.backends.openai import CHAT, openai

Reply = tuple[int, dict[str, str], Any]


class Server:
    """Answers by a function of (path, body); keeps what it was asked."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Reply]) -> None:
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append((self.path, body, self.headers.get("Authorization")))
                status, headers, found = answer(self.path, body)
                data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                with contextlib.suppress(BrokenPipeError):  # a client that waited long enough
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    made: list[Server] = []

    def start(answer: Callable[[str, dict[str, Any]], Reply]) -> Server:
        made.append(Server(answer))
        return made[-1]

    yield start
    for server in made:
        server.http.shutdown()
        server.http.server_close()


def ask(backend: Backend, requests: list[Request]) -> list[Written]:
    found: list[Written] = []
    order: list[int] = []

    def done(indices: list[int], answers: list[Written]) -> None:
        order.extend(indices)
        found.extend(answers)

    backend.write(requests, done, "")
    assert order == list(range(len(requests)))
    return found


def echo(path: str, body: dict[str, Any]) -> Reply:
    """The text backwards; a conversation gives its last message."""
    if path == "/v1/chat/completions":
        message = {"role": "assistant", "content": body["messages"][-1]["content"][::-1]}
        choice = {"message": message, "finish_reason": "length"}
        return 200, {}, {"choices": [choice]}
    choice = {"text": body["prompt"][::-1], "finish_reason": "stop"}
    return 200, {}, {"choices": [choice], "usage": {"completion_tokens": 7}}


def test_what_is_sent_and_read(serve: Any) -> None:
    server = serve(echo)
    backend = openai("m", url=server.url, concurrency=1)
    prompt = backend.chat([{"role": "user", "content": "hé"}])
    assert prompt is not None
    assert prompt.startswith(CHAT)
    stops = ("a", "b", "c", "d", "e")
    found = ask(
        backend,
        [Request("abxcd", 9, stop=("x",)), Request("xyz", 8, stops, 0.5, 0.9, 2**62 + 5),
         Request(prompt, 7)],
    )  # fmt: skip
    assert found == [Written("dc", 7, True), Written("zyx", 7, True), Written("éh", 1, False)]
    key = "Bearer sk-secret"
    greedy = {"model": "m", "temperature": 0.0}
    assert server.asked == [
        ("/v1/completions", greedy | {"prompt": "abxcd", "max_tokens": 9, "stop": ["x"]}, key),
        ("/v1/completions", {"model": "m", "prompt": "xyz", "max_tokens": 8, "temperature": 0.5,
                             "top_p": 0.9, "seed": 5, "stop": list("abcd")}, key),
        ("/v1/chat/completions", greedy | {"messages": [{"role": "user", "content": "hé"}],
                                           "max_tokens": 7}, key),
    ]  # fmt: skip
    newer = openai("m", url=server.url, budget_key="max_completion_tokens")
    ask(newer, [Request(prompt, 7)])
    assert server.asked[-1][1]["max_completion_tokens"] == 7
    assert openai("m", url=server.url, chat=False).chat([]) is None
    assert backend.num_tokens(["", "abcd", "abcde"]) == [0, 1, 2]


def test_many_at_once_come_in_order(serve: Any) -> None:
    running, most, lock = [0], [0], threading.Lock()
    gate = threading.Barrier(4, timeout=20)

    def answer(path: str, body: dict[str, Any]) -> Reply:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        gate.wait()  # four must be here at once
        with lock:
            running[0] -= 1
        return echo(path, body)

    backend = openai("m", url=serve(answer).url, concurrency=4)
    texts = [f"{number:03d}" for number in range(40)]
    found = ask(backend, [Request(text, 5) for text in texts])
    assert [one.text for one in found] == [text[::-1] for text in texts]
    assert most[0] == 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(serve: Any, status: int) -> None:
    left = [2]

    def answer(path: str, body: dict[str, Any]) -> Reply:
        left[0] -= 1
        if left[0] >= 0:
            return status, {"Retry-After": "0.01"}, {"error": {"message": "busy"}}
        return echo(path, body)

    server = serve(answer)
    assert ask(openai("m", url=server.url, wait=0.01), [Request("ab", 5)])[0].text == "ba"
    assert len(server.asked) == 3
    left[0] = 99
    with pytest.raises(UserError, match=rf"after 2 attempts \(status {status} busy\)"):
        ask(openai("m", url=server.url, wait=0.01, retries=1), [Request("ab", 5)])


def test_no_server_and_a_silent_one(serve: Any) -> None:
    event = threading.Event()

    def answer(path: str, body: dict[str, Any]) -> Reply:
        event.wait(10)
        return echo(path, body)

    server = serve(answer)
    with pytest.raises(UserError, match="no answer from /completions after 2 attempts"):
        ask(openai("m", url=server.url, timeout=0.1, retries=1, wait=0.0), [Request("ab", 5)])
    event.set()
    with pytest.raises(UserError, match="after 1 attempts"):
        ask(openai("m", url="http://127.0.0.1:9/v1", retries=0), [Request("ab", 5)])


@pytest.mark.parametrize(
    ("status", "message", "pattern"),
    [
        (401, "Incorrect key sk-secret", r"refuses the key \(Incorrect key \*\*\*\)"),
        (404, "the model 'm' does not exist", r"no such model .*does not exist"),
        (400, "maximum context length is 8", r"status 400 .*maximum context"),
        (302, "moved", "status 302"),
    ],
)
def test_refusals(serve: Any, status: int, message: str, pattern: str) -> None:
    headers = {"Location": "http://127.0.0.1:9/elsewhere"} if status == 302 else {}
    server = serve(lambda path, body: (status, headers, {"error": {"message": message}}))
    with pytest.raises(UserError, match=pattern) as caught:
        ask(openai("m", url=server.url), [Request("ab", 5)] * 3)
    assert "sk-secret" not in str(caught.value)
    assert len(server.asked) <= 3  # not again


@pytest.mark.parametrize("reply", ["no json", "[]", {"choices": []}, {"choices": [{"text": 3}]}])
def test_answers_in_another_format(serve: Any, reply: Any) -> None:
    server = serve(lambda path, body: (200, {}, reply))
    with pytest.raises(UserError, match=r"no JSON object|cannot be read"):
        ask(openai("m", url=server.url), [Request("ab", 5)])


def test_keys_and_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY: not set"):
        openai("gpt-4o-mini")
    for url in ("file:///etc/passwd", "localhost:80", "ftp://x/v1"):
        with pytest.raises(UserError, match="url"):
            openai("m", url=url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    first = openai("m", url="http://localhost:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    assert openai("m", url="http://localhost:1/v1/").identity == first.identity
    assert openai("m", url="http://localhost:2/v1").identity != first.identity
    assert openai("m", url="http://localhost:1/v1", revision="2").identity != first.identity


def logprobs(tokens: list[str], begin: str = "", form: str = "tokens") -> dict[str, Any]:
    """What vLLM's and OpenAI's completions answer to `echo` (one token more than the prompt)."""
    all_tokens = [*([begin] if begin else []), *tokens, "!"]
    nats = [None, *(-0.5 * place for place in range(1, len(all_tokens)))]
    tops = [None, *({token: -0.5 * place, "other": -1.2} for place, token in
                    enumerate(all_tokens) if place)]  # fmt: skip
    offsets = [sum(map(len, all_tokens[:place])) for place in range(len(all_tokens))]
    found = {"tokens": all_tokens, "token_logprobs": nats, "top_logprobs": tops,
             "text_offset": offsets}  # fmt: skip
    return {"choices": [{"text": "".join(all_tokens), "logprobs": found}]}


def score(backend: Backend, *queries: Query) -> list[Likelihood]:
    found: list[Likelihood] = []
    backend.likelihood(list(queries), lambda _, answers: found.extend(answers), "")
    return found


def test_likelihood_by_echo(serve: Any) -> None:
    replies: list[dict[str, Any]] = []
    server = serve(lambda path, body: (200, {}, replies.pop(0)))
    backend = openai("m", url=server.url)
    replies[:] = [logprobs(["The", " fox", " ran"])]
    assert score(backend, Query("The", " fox ran")) == [Likelihood(-1.5, 2, True)]
    assert server.asked[0][1] == {"model": "m", "prompt": "The fox ran", "echo": True,
                                  "logprobs": 1, "max_tokens": 1, "temperature": 0.0}  # fmt: skip
    # Blanks before the continuation belong to its first token; begin-of-text shifts nothing.
    replies[:] = [logprobs(["The", " fox", " ran"], begin="<s>")]
    assert score(backend, Query("The ", "fox ran")) == [Likelihood(-2.5, 2, False)]
    # Halves of a character have names of their own, so that only offsets tell.
    reply = logprobs(["The", "\\xc3", "\\xa9"])
    reply["choices"][0]["logprobs"]["text_offset"] = [0, 3, 4, 4]
    replies[:] = [reply]
    assert score(backend, Query("The", "é"))[0].num_tokens == 1
    no_prompt = "gives no log-probabilities of the prompt"
    without = [{"choices": [{"text": "x", "logprobs": found}]} for found in (None, {"content": []})]
    for other in (*without, logprobs(["x"])):
        replies[:] = [other]
        with pytest.raises(UserError, match=no_prompt):
            score(backend, Query("The", " fox"))
    replies[:] = [logprobs(["The fox"])]
    with pytest.raises(UserError, match="without a token of its own"):
        score(backend, Query("The", " fox"))


def test_against_the_server_of_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp")
    from smelt.models.llama_server import LlamaServer
    from tests.models.test_backends_llama import write_gguf

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = write_gguf(tmp_path)
    server = LlamaServer(path, context=128, threads=1)
    try:
        backend = openai(str(path), url=server.address + "/v1", chat=False, concurrency=2)
        requests = [Request("The quick", 8), Request("1+1=", 8, stop=("e",))]
        found = ask(backend, requests)
        for one, request in zip(found, requests, strict=True):
            body = {"prompt": request.prompt, "n_predict": 8, "temperature": 0.0,
                    "stop": list(request.stop), "cache_prompt": False}  # fmt: skip
            assert one.text == server.ask("/completion", body)["content"]
            assert one.num_tokens > 0
        with pytest.raises(UserError, match="gives no log-probabilities of the prompt"):
            score(backend, Query("The", " quick"))
    finally:
        server.close()
