"""Gram matrices against formulas written out row by row."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from smelt.checkpoint.reader import Checkpoint
from smelt.checkpoint.statistics import Statistics
from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.core.errors import UserError
from smelt.models.load import load_model
from smelt.models.statistics import Options, largest_bytes, measure
from tests.models.measured import ROWS, assert_close, examples_of, gpt2, ids_of, statistics_of
from tests.pico import pico_tokenizer


def test_gram_is_x_transposed_x_by_hand(untied: Path, tmp_path: Path) -> None:
    """Inputs of the layers from the hidden states, row by row, without any hook."""
    found = statistics_of(untied, tmp_path / "out", "gram")
    model: Any = load_model(untied)
    expected: dict[str, torch.Tensor] = {}
    num_tokens = 0
    for prompt, text in ROWS:
        ids, _ = ids_of(untied, prompt, text)
        num_tokens += len(ids) - 1
        with torch.no_grad():
            run = model(input_ids=torch.tensor([ids[:-1]]), output_hidden_states=True)
            states = run.hidden_states
            for index, layer in enumerate(model.model.layers):
                normed = layer.input_layernorm(states[index])
                positions = torch.arange(len(ids) - 1)[None]
                rotary = model.model.rotary_emb(normed, positions)
                attended, _ = layer.self_attn(normed, rotary, None)
                middle = layer.post_attention_layernorm(states[index] + attended)
                gated = torch.nn.functional.silu(layer.mlp.gate_proj(middle))
                inputs = {"self_attn.q_proj": normed, "self_attn.k_proj": normed}
                inputs |= {"self_attn.v_proj": normed, "mlp.gate_proj": middle}
                inputs |= {
                    "mlp.up_proj": middle,
                    "mlp.down_proj": gated * layer.mlp.up_proj(middle),
                }
                for part, x in inputs.items():
                    name = f"model.layers.{index}.{part}.weight"
                    expected[name] = expected.get(name, 0) + x[0].double().T @ x[0].double()
            x = states[-1][0].double()
            expected["lm_head.weight"] = expected.get("lm_head.weight", 0) + x.T @ x
    assert len(expected) == 13
    for name, matrix in expected.items():
        assert_close(found.array(name), matrix)
        assert found.measured(name).tokens == found.description.tokens == num_tokens
    outputs = [f"model.layers.{index}.self_attn.o_proj.weight" for index in (0, 1)]
    assert found.names() == sorted([*expected, *outputs])
    for name in found.names():
        matrix = found.array(name)
        assert matrix.dtype == np.float32
        np.testing.assert_array_equal(matrix, matrix.T)


@pytest.mark.parametrize("base_only", [False, True])
def test_gram_gives_the_energy_of_every_output(base_only: bool, tmp_path: Path) -> None:
    """sum |W x|^2 = trace(W G W^T): the right input, the right axis, also of GPT-2's Conv1D."""
    folder = gpt2(tmp_path / "m", base_only=base_only)
    found = statistics_of(folder, tmp_path / "out", "gram")
    model = load_model(folder)
    energy: Counter[str] = Counter()

    def watch(name: str, module: Any) -> None:
        def after(_: Any, __: Any, output: torch.Tensor) -> None:
            energy[name] += float((output - module.bias).double().square().sum())

        module.register_forward_hook(after)

    for name, module in model.named_modules():
        if type(module).__name__ == "Conv1D":
            watch(name.removeprefix("transformer.") if base_only else name, module)
    for row in ROWS:
        with torch.no_grad():
            model(input_ids=torch.tensor([ids_of(folder, *row)[0][:-1]]))
    assert found.names() == sorted(f"{name}.weight" for name in energy)
    assert len(energy) == 8
    for name, value in energy.items():
        weight = Checkpoint.open(folder).read(f"{name}.weight").double()
        assert found.measured(f"{name}.weight").input_axis == 0
        matrix = torch.as_tensor(found.array(f"{name}.weight")).double()
        assert float((weight.T @ matrix @ weight).trace()) == pytest.approx(value, rel=1e-5)


def test_layers_that_read_one_input_are_stored_once(tied: Path, tmp_path: Path) -> None:
    found = statistics_of(tied, tmp_path / "out", "gram")
    assert len(found.names()) == 14
    stored = {name: found.measured(name).stored_as for name in found.names()}
    assert len(set(stored.values())) == len(found.stored) == 8
    first = "model.layers.0."
    together = [name for name in stored if stored[name] == f"{first}self_attn.k_proj.weight"]
    assert together == [f"{first}self_attn.{part}_proj.weight" for part in "kqv"]
    with pytest.raises(UserError, match="shared by embedding and head"):
        found.array("model.embed_tokens.weight")
    with pytest.raises(UserError, match="no linear layer"):
        found.array("model.norm.weight")


def test_an_input_that_changes_between_two_layers_is_not_shared(tied: Path, tmp_path: Path) -> None:
    """Same tensor, same address, doubled in place after gate_proj has read it."""
    model: Any = load_model(tied)
    mlp = model.model.layers[1].mlp

    def forward(x: torch.Tensor) -> torch.Tensor:
        gate = mlp.gate_proj(x)
        x *= 2
        return mlp.down_proj(mlp.act_fn(gate) * mlp.up_proj(x))

    mlp.forward = forward
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    options = Options(kind="gram")
    measure(model, Checkpoint.open(tied), examples_of(tied), data, tmp_path / "out", options)
    found = Statistics.open(tmp_path / "out")
    gate, up = (found.array(f"model.layers.1.mlp.{part}_proj.weight") for part in ("gate", "up"))
    np.testing.assert_allclose(up, 4 * gate, rtol=1e-6)


@pytest.mark.parametrize("kind", ["gram", "fisher"])
def test_little_memory_means_more_passes_and_the_same_numbers(
    tied: Path, tmp_path: Path, kind: str
) -> None:
    whole = statistics_of(tied, tmp_path / "one", kind)
    parts = statistics_of(tied, tmp_path / "many", kind, memory_bytes=30_000)
    assert whole.description.files == ["statistics.safetensors"]
    assert len(parts.description.files) > 2
    for name in whole.names():
        np.testing.assert_array_equal(whole.array(name), parts.array(name))
    assert largest_bytes(tied, kind) >= sum(spec.num_bytes for spec in whole.stored.values())


def test_a_layer_that_no_token_reaches_is_left_out(tied: Path, tmp_path: Path) -> None:
    """An attention that skips its output layer stands for an unused MoE expert."""
    model: Any = load_model(tied)
    examples = examples_of(tied)
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    model.model.layers[1].mlp.forward = lambda x: x
    measure(model, Checkpoint.open(tied), examples, data, tmp_path / "out", Options(kind="gram"))
    found = Statistics.open(tmp_path / "out")
    assert set(found.description.left_out.values()) == {
        "its layer was never called",
        "shared by embedding and head",
    }
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj.*its layer was never called"):
        found.array("model.layers.1.mlp.up_proj.weight")
    assert len(found.names()) == 11


def test_weights_that_are_no_numbers_are_refused(tied: Path, tmp_path: Path) -> None:
    model: Any = load_model(tied)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    for kind in ("gram", "fisher"):
        options = Options(kind=kind)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="no finite numbers"):
            measure(model, Checkpoint.open(tied), examples_of(tied), data, tmp_path / kind, options)


def test_a_network_with_other_tensors_than_its_checkpoint_is_refused(
    tied: Path, untied: Path, tmp_path: Path
) -> None:
    """As of architectures that are converted when they are loaded."""
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    with pytest.raises(UserError, match=r"'lm_head\.weight' is not stored"):
        measure(
            load_model(untied), Checkpoint.open(tied), examples_of(tied), data,
            tmp_path / "out", Options(kind="gram"),
        )  # fmt: skip


def test_a_tensor_that_transformers_renames_keeps_its_stored_name(tmp_path: Path) -> None:
    """GPT-NeoX (Pythia) stores `embed_out`, which the network calls `lm_head`."""
    folder = tmp_path / "m"
    pico_tokenizer(folder)
    torch.manual_seed(6)
    config = GPTNeoXConfig(
        vocab_size=open_tokenizer(folder).size, hidden_size=32, intermediate_size=64,
        num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=64,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    assert (
        statistics_of(folder, tmp_path / "f", "fisher").names() == Checkpoint.open(folder).names()
    )
    found = statistics_of(folder, tmp_path / "g", "gram")
    head = next(name for name in found.names() if "layers" not in name)
    model: Any = load_model(folder)
    total = torch.zeros(32, 32, dtype=torch.float64)
    for row in ROWS:
        with torch.no_grad():
            ids = torch.tensor([ids_of(folder, *row)[0][:-1]])
            x = model.gpt_neox(input_ids=ids).last_hidden_state[0].double()
        total += x.T @ x
    assert head == "embed_out.weight"
    assert_close(found.array(head), total)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"twin": tensors[head].clone()}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"'lm_head\.weight' is not stored"):
        statistics_of(folder, tmp_path / "twins", "gram")
