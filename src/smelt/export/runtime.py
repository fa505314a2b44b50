"""llama.cpp as a child process: its server, from the prebuilt wheel `xllamacpp`, behind a context.

A child, because the library prints from C++ and cannot be relied on to leave a process cleanly:
the child's output goes nowhere unless asked for, and closing its standard input ends it, which
the system does for us even when the parent is killed.
"""

import contextlib
import importlib.util
import json
import os
import selectors
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from smelt.core.errors import UserError, needs

START_SECONDS = 600.0
STOP_SECONDS = 5.0
# Loopback never goes through a proxy, whatever the environment says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Runtime:
    """A running llama.cpp server with one model. Made by `start`."""

    def __init__(self, address: str, path: Path) -> None:
        self.address, self.path = address, path

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.address + route,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with _OPENER.open(request, timeout=START_SECONDS) as reply:
                return json.loads(reply.read().decode("utf-8", errors="replace"))
        except urllib.error.HTTPError as error:
            told = error.read().decode("utf-8", errors="replace")[:300]
            raise UserError(self.path, f"llama.cpp refused {route} ({told})") from error
        except (OSError, ValueError) as error:
            raise UserError(self.path, f"llama.cpp stopped answering {route} ({error})") from error

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
    command = [sys.executable, "-m", "smelt.export.runtime", str(path), str(num_ctx)]
    # The child finds this very package, also when it runs from a source tree.
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if verbose else subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield Runtime(_address(child, path), path)
    finally:
        child.stdin.close()  # the child's signal to end
        child.stdout.close()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _address(child: "subprocess.Popen[bytes]", path: Path) -> str:
    """The child's first line: where it listens. Its end without one means the file was refused."""
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        deadline = time.monotonic() + START_SECONDS
        while not selector.select(timeout=1.0):
            if time.monotonic() > deadline:
                raise UserError(path, f"llama.cpp did not load it in {START_SECONDS:.0f} s")
    line = child.stdout.readline().decode().strip()
    if not line.startswith("http"):
        raise UserError(path, "llama.cpp cannot load it", "a GGUF file it knows", "run with -v")
    return line


def _serve(path: str, num_ctx: int) -> NoReturn:
    """The child: load the model, say where it listens, and live until standard input closes."""
    channel = os.dup(1)
    os.dup2(2, 1)  # llama.cpp prints to both; only our one line may reach the parent
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.n_gpu_layers = num_ctx, 1, 0
    # More threads than free cores are eleven times slower, and one is deterministic.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.fit_params, params.warmup, params.cache_ram_mib = False, False, 0
    params.ui = False
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)
    os.write(channel, f"{server.listening_address}\n".encode())
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.buffer.read()
    # Not a normal exit: the library's threads would be joined, and that can hang.
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
