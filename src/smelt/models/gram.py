"""Gram matrices: for every linear layer the sum of x x^T over its inputs x. (arXiv:2212.09849)

RegMean keeps the merged layer's outputs near those of each expert's on the expert's own data; all
it needs of the data is this matrix. Every token position that the model reads counts, prompts too,
because the layer transforms them all.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from smelt.core import progress
from smelt.models.examples import Example, batches


@dataclass
class Linear:
    """A weight that meets its input as a matrix, and the modules that use it (mostly one)."""

    weight: nn.Parameter
    modules: list[nn.Module]
    input_axis: Literal[0, 1]

    @property
    def width(self) -> int:
        return int(self.weight.shape[self.input_axis])


@dataclass
class Sum:
    """The Gram matrix of an input in the making, in float64, and the positions added so far."""

    total: Float64[Tensor, "width width"]
    num_tokens: int = 0

    def add(self, inputs: Float[Tensor, "*positions width"]) -> None:
        """Add x x^T of every position. One batch is a float32 product, the sum is float64."""
        flat = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        self.total += (flat.T @ flat).to(self.total.device)
        self.num_tokens += flat.shape[0]

    def matrix(self) -> Float[Tensor, "width width"]:
        """The sum, exactly symmetric, in float32."""
        return ((self.total + self.total.T) / 2).float().cpu()


def linear_layers(model: PreTrainedModel) -> list[Linear]:
    """Every Linear and Conv1D of a network, by weight; a head tied to the embedding is none."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    found: dict[int, Linear] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in embeddings:
            axis: Literal[0, 1] = 1 if isinstance(module, nn.Linear) else 0
            weight = cast(nn.Parameter, module.weight)
            found.setdefault(id(weight), Linear(weight, [], axis)).modules.append(module)
    return list(found.values())


@contextmanager
def _watching(layers: list[Linear], seen: Callable[[Linear, Tensor], None]) -> Iterator[None]:
    """Call `seen` with the input of every use of the layers."""

    def hook(layer: Linear) -> Callable[..., None]:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen(layer, (*args, *kwargs.values())[0])

        return before

    with ExitStack() as stack:
        for layer in layers:
            for module in layer.modules:
                handle = module.register_forward_pre_hook(hook(layer), with_kwargs=True)
                stack.callback(handle.remove)
        yield


def _read(model: PreTrainedModel, layers: list[Linear], ids: Tensor) -> None:
    """Run the network, without its head where no layer of interest lies outside the base."""
    inside = {id(module) for module in model.base_model.modules()}
    needed = all(id(module) in inside for layer in layers for module in layer.modules)
    network = model.base_model if needed else model
    network(input_ids=ids.to(model.device), use_cache=False)


@torch.no_grad()
def shared_inputs(
    model: PreTrainedModel, layers: list[Linear], example: Example
) -> list[list[Linear]]:
    """Layers that read one and the same tensor (q, k, v; gate, up), found on a short example.

    A layer that the example does not reach (a MoE expert) is a group of its own.
    """
    alive: list[Tensor] = []  # while all inputs are kept, no two share an address by chance
    marks: dict[int, list[Any]] = {id(layer): [] for layer in layers}

    def seen(layer: Linear, inputs: Tensor) -> None:
        alive.append(inputs)
        place = (inputs.data_ptr(), inputs.shape, inputs.stride(), inputs._version)
        marks[id(layer)].append(place)

    with _watching(layers, seen):
        _read(model, layers, torch.tensor([example.inputs[:8]]))
    groups: dict[Any, list[Linear]] = {}
    for layer in layers:
        groups.setdefault(tuple(marks[id(layer)]) or id(layer), []).append(layer)
    return list(groups.values())


@torch.no_grad()
def gram(
    model: PreTrainedModel, leaders: list[Linear], examples: list[Example], bar: progress.Bar
) -> list[Sum]:
    """The Gram matrix of each layer's input over all examples: one pass, batch by batch.

    Memory: 8 bytes for each entry of the matrices, plus 4 for that of one batch, plus the
    activations of one layer. The bar moves by tokens.
    """
    # Apple's accelerator has no float64.
    home = torch.device("cpu") if model.device.type == "mps" else model.device
    sums = {
        id(layer): Sum(torch.zeros(layer.width, layer.width, dtype=torch.float64, device=home))
        for layer in leaders
    }

    def seen(layer: Linear, inputs: Tensor) -> None:
        sums[id(layer)].add(inputs)

    vocab = int(cast(Any, model.get_input_embeddings()).weight.shape[0])
    with _watching(leaders, seen):
        for ids in batches(examples, vocab):
            _read(model, leaders, ids)
            bar.move(ids.numel())
    return [sums[id(layer)] for layer in leaders]
