"""A checkpoint folder or hub model in this process, on any device that PyTorch knows."""

from importlib.metadata import version
from typing import Annotated, Literal

import torch
from pydantic import Field
from transformers import PreTrainedModel

from smelt.checkpoint.reader import find_folder
from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core import digest
from smelt.core.errors import UserError
from smelt.models.backend import Backend
from smelt.models.load import load_model, pick_device
from smelt.models.network import VERSION, NetworkBackend
from smelt.models.source import identity_of


def transformers(
    model: str,
    *,
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    batch_size: Annotated[int, Field(gt=0)] = 256,
) -> Backend:
    """Load a model and answer in batches of at most `batch_size` rows.

    model: folder or hub name; device: cpu, cuda, mps or auto; dtype: precision of the weights and
    of the computation. Raises UserError when it cannot be loaded.
    """
    folder = find_folder(model)
    network = load_model(folder, pick_device(device), getattr(torch, dtype))
    facts = ["transformers", VERSION, version("transformers")]
    identity = digest.value([*facts, identity_of(folder, dtype)])
    return NetworkBackend(network, folder, identity=identity, batch_size=batch_size)


def network_and_tokenizer(backend: Backend) -> tuple[PreTrainedModel, TextTokenizer]:
    """The network behind this backend, for what only a network can tell (likelihoods of whole
    texts). Raises UserError for another backend."""
    if not isinstance(backend, NetworkBackend):
        raise UserError("backend", "no network in this process", "the transformers backend")
    return backend.model, backend.prompts.tokenizer
