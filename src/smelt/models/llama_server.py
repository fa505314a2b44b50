"""llama.cpp as a child process that answers prompts, from the prebuilt wheel `xllamacpp`.

A child, because the library prints from C++ and cannot be relied on to leave a process cleanly;
closing its standard input ends it, which the system does for us even when the parent is killed.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

from smelt.core.errors import UserError

# Loopback never goes through a proxy, whatever the environment says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
START_SECONDS, STOP_SECONDS, ANSWER_SECONDS = 600.0, 5.0, 3600.0


def ask(address: str, path: Path, route: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON answer of a route of a server with a file (GET without a body).

    Raises UserError when it refuses or is gone.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address + route, data=data, headers=headers)
    try:
        with _OPENER.open(request, timeout=ANSWER_SECONDS) as reply:
            return json.loads(reply.read().decode("utf-8", errors="replace"))
    except urllib.error.HTTPError as error:
        told = error.read().decode("utf-8", errors="replace")[:300]
        raise UserError(path, f"llama.cpp refused {route} ({told})") from error
    except (OSError, ValueError) as error:
        raise UserError(path, f"llama.cpp stopped answering {route} ({error})") from error


class LlamaServer:
    """A running child with one GGUF file."""

    def __init__(self, path: Path, *, context: int, threads: int, verbose: bool = False) -> None:
        """Raises UserError when llama.cpp cannot load the file. verbose: show what it prints."""
        self.path = path
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._child = subprocess.Popen(
            [sys.executable, "-m", "smelt.models.llama_server", str(path), str(context),
             str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=None if verbose else subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths),
                 "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        try:
            self.address = self._listens()
        except BaseException:
            self.close()
            raise

    def _listens(self) -> str:
        """The child's first line: where it listens. Its end without one: the file was refused."""
        output = self._child.stdout
        assert output is not None
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            deadline = time.monotonic() + START_SECONDS
            while not selector.select(timeout=1.0):
                if time.monotonic() > deadline:
                    raise UserError(self.path, f"not loaded in {START_SECONDS:.0f} s")
        line = output.readline().decode().strip()
        if not line.startswith("http"):
            raise UserError(
                self.path,
                "llama.cpp cannot load it",
                "a GGUF file it knows",
                "smelt export -v shows what it says",
            )
        return line

    def ask(self, route: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer of a route (GET without a body). Raises UserError when it refuses."""
        return ask(self.address, self.path, route, body)

    def close(self) -> None:
        """End the child."""
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _serve(path: str, context: int, threads: int) -> NoReturn:
    """The child: load the model, say where it listens, and live until standard input closes."""
    channel = os.dup(1)
    os.dup2(2, 1)  # llama.cpp prints to both; only our one line may reach the parent
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    # One sequence at a time: what stands beside it would change the last bits.
    params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 1, 0
    # More threads than free cores are eleven times slower, and one is deterministic.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    # The default float16 cache alone moves log-probabilities by up to 2e-2 (edge.md 1).
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
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
