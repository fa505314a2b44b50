"""Models of an eval recipe: which backend answers for each, and how it is opened."""

import inspect
from dataclasses import dataclass
from pathlib import Path

from smelt.checkpoint.reader import Checkpoint, local_path
from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.core import registry
from smelt.core.errors import UserError, require
from smelt.evals.exam import Paper
from smelt.evals.recipe import ModelEntry
from smelt.models.backend import Backend, Message
from smelt.models.load import check_rows, context_of
from smelt.models.prompts import Prompts

# Backends that read files of this machine, which are inputs of the run.
LOCAL = ("transformers", "llama_cpp", "vllm")
# Extras that a backend needs beside what smelt cannot do without.
NEEDS = {"llama_cpp": "export", "vllm": "vllm"}


def entry_of(model: str | ModelEntry) -> ModelEntry:
    """A model with its backend: a GGUF file is read by llama.cpp, anything else is a folder."""
    if isinstance(model, ModelEntry):
        return model
    backend = "llama_cpp" if model.endswith(".gguf") else "transformers"
    return ModelEntry(model=model, backend=backend)


@dataclass(frozen=True)
class FolderPaper:
    """Context and tokenizer of a checkpoint folder: enough to write prompts, no weights."""

    context: int
    prompts: Prompts

    def chat(self, messages: list[Message]) -> str | None:
        """The prompt of a conversation; None without a chat template."""
        return self.prompts.chat(messages)

    def num_tokens(self, texts: list[str]) -> list[int]:
        """Tokens of each text as a prompt."""
        return [len(ids) for ids in self.prompts.encode(texts)]


def check_model(entry: ModelEntry, where: str) -> Paper | None:
    """Everything that can be known of a model without its weights, and, of a checkpoint folder or
    an endpoint, what its prompts are written for.

    Raises UserError for an unknown backend or option, a missing package, file or key, a tokenizer
    that does not fit.
    """
    registry.check_keywords("backend", entry.backend, entry.options, f"{where}.options")
    if entry.backend in NEEDS:
        require(NEEDS[entry.backend])
    if entry.backend == "llama_cpp":
        if not Path(entry.model).is_file():
            raise UserError(where, f"no such file: {entry.model}", "a GGUF file")
    elif entry.backend in ("transformers", "vllm"):
        checkpoint = Checkpoint.open(entry.model)
        check_rows(checkpoint.config, open_tokenizer(checkpoint.folder), where)
        context = entry.options.get("context") or context_of(checkpoint.config)
        return FolderPaper(context, Prompts(checkpoint.folder))
    elif entry.backend == "openai":  # looks at key and address only
        return open_backend(entry, device="cpu", batch_size=1)
    return None


def input_of(entry: ModelEntry) -> Path | None:
    """The file or folder that a model is read from; None: it is somebody else's (an endpoint)."""
    if entry.backend not in LOCAL:
        return None
    path = Path(entry.model)
    return path if entry.backend == "llama_cpp" else Path(local_path(entry.model))


def takes_device(entry: ModelEntry) -> bool:
    """Does the backend run where it is told to?"""
    return "device" in inspect.signature(registry.load("backend", entry.backend)).parameters


def open_backend(entry: ModelEntry, *, device: str, batch_size: int) -> Backend:
    """Load a model; device and batch size go to a backend that takes them."""
    make = registry.load("backend", entry.backend)
    given = {"device": device, "batch_size": batch_size, **entry.options}
    taken = inspect.signature(make).parameters
    path = input_of(entry)
    model = entry.model if path is None else str(path)
    backend: Backend = make(model, **{key: value for key, value in given.items() if key in taken})
    return backend
