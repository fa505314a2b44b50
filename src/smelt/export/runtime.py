"""What a GGUF file says in llama.cpp: tokens, greedy text, log-probabilities."""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smelt.core.errors import needs
from smelt.models.llama_server import LlamaServer, ask


class Runtime:
    """A running llama.cpp server with one model. Made by `start`."""

    def __init__(self, address: str, path: Path) -> None:
        self.address, self.path = address, path

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        return ask(self.address, self.path, route, body)

    def tokenize(self, text: str) -> tuple[list[int], list[bytes]]:
        """Ids of a text (with BOS where the file asks for it), and the bytes of each piece."""
        body = {"content": text, "add_special": True, "parse_special": True, "with_pieces": True}
        found = self._post("/tokenize", body)["tokens"]
        return [row["id"] for row in found], [
            piece.encode() if isinstance(piece := row["piece"], str) else bytes(piece)
            for row in found
        ]

    def generate(self, ids: list[int], num_tokens: int) -> list[int]:
        """Ids of the greedy continuation of ids (taken as they are), up to an end token."""
        body = {"prompt": ids, "n_predict": num_tokens, "temperature": 0.0, "return_tokens": True}
        return [int(index) for index in self._post("/completion", body)["tokens"]]

    def logprobs(self, ids: list[int], vocab_size: int, probe: int) -> dict[int, float]:
        """Natural log-probability of each id after ids.

        The server leaves out generated tokens that end inside a UTF-8 character, so its answer is
        forced (by a bias, which the reported probabilities do not contain) to be `probe`, the id of
        a piece of plain ASCII.
        """
        body = {
            "prompt": ids,
            "n_predict": 1,
            "n_probs": vocab_size,
            "temperature": 0.0,
            "logit_bias": [[probe, 1e6]],
        }
        rows = self._post("/completion", body).get("completion_probabilities", [])
        return {top["id"]: top["logprob"] for row in rows[:1] for top in row["top_logprobs"]}


def version() -> str:
    """Version of the runtime's wheel. Raises UserError when it is not installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise needs("export", "xllamacpp")
    from importlib.metadata import version as version_of

    return version_of("xllamacpp")


@contextlib.contextmanager
def start(path: Path, *, num_ctx: int = 1024, verbose: bool = False) -> Iterator[Runtime]:
    """Run llama.cpp on a GGUF file, on one thread and a random loopback port.

    The key/value cache is float32 and flash attention is off: the default float16 cache alone
    moves log-probabilities by up to 2e-2, which would hide errors of the file (edge.md 1).
    Raises UserError when llama.cpp cannot load the file.
    """
    version()
    server = LlamaServer(path, context=num_ctx, threads=1, verbose=verbose)
    try:
        yield Runtime(server.address, path)
    finally:
        server.close()
