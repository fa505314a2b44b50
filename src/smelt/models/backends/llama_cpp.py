"""A GGUF file in llama.cpp on the CPU: what an exported model answers after quantization."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import Field

from smelt.core.errors import UserError, needs
from smelt.models.backend import Backend
from smelt.models.llama import LlamaCpp


def llama_cpp(
    model: str,
    *,
    context: Annotated[int, Field(gt=0)] = 4096,
    threads: Annotated[int, Field(gt=0)] = 1,
) -> Backend:
    """Start llama.cpp on a GGUF file. Raises UserError when it is missing or not loadable.

    context: tokens of prompt and answer, at most what the model was trained for; its memory is
    taken at the start; threads: more than there are free cores is many times slower.
    """
    for package in ("xllamacpp", "gguf"):
        if find_spec(package) is None:
            raise needs("export", package)
    path = Path(model)
    if not path.is_file():
        raise UserError(model, "no such file", "a GGUF file")
    return LlamaCpp(path, context, threads)
