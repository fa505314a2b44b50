"""Gram matrices and Fisher diagonals against formulas written out row by row."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from smelt.checkpoint.reader import Checkpoint
from smelt.checkpoint.statistics import Statistics
from smelt.checkpoint.tokenizer import TextTokenizer, open_tokenizer
from smelt.core import progress
from smelt.core.errors import UserError
from smelt.models.examples import BATCH_LOGITS, Example, Examples, batches, choose, read_rows
from smelt.models.fisher import fisher
from smelt.models.load import load_model
from smelt.models.statistics import Options, largest_bytes, measure
from tests.pico import pico_llama, pico_tokenizer

ROWS = [
    ("max[35]*1=", "max[35]*1=5*1=5."),
    ("", "The quick brown fox jumps over the lazy dog, then sleeps."),
    ("rev[123]=", "rev[123]=[321]."),
    ("", "def add(a, b):\n    return a + b\n"),
    ("rev[321]=", "rev[321]=[123]."),
]
CONTEXT = 40


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_llama(tmp_path_factory.mktemp("untied") / "m", seed=3, tied=False)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_llama(tmp_path_factory.mktemp("tied") / "m", seed=4)


def gpt2(folder: Path, *, base_only: bool) -> Path:
    """A pico GPT-2; saved as a base model its tensors have no `transformer.` in their names."""
    pico_tokenizer(folder)
    tokenizer = open_tokenizer(folder)
    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=tokenizer.size, n_embd=32, n_layer=2, n_head=4, n_positions=64,
        initializer_range=0.2, eos_token_id=tokenizer.eos_id, bos_token_id=None,
    )  # fmt: skip
    model = GPT2Model(config) if base_only else GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    return folder


def examples_of(folder: Path, rows: list[tuple[str, str]] = ROWS) -> Examples:
    tokenizer = open_tokenizer(folder)
    return choose(rows, tokenizer, context=CONTEXT, limit=None, max_tokens=None, seed=0)


def statistics_of(
    folder: Path, out: Path, kind: Any, rows: list[tuple[str, str]] = ROWS, **options: Any
) -> Statistics:
    data = out.with_name(f"{out.name}.jsonl")
    data.write_text("".join(json.dumps({"prompt": p, "text": t}) + "\n" for p, t in rows))
    chosen = Options(kind=kind, **options)
    model, checkpoint = load_model(folder), Checkpoint.open(folder)
    measure(model, checkpoint, examples_of(folder, read_rows(data)), data, out, chosen)
    found = Statistics.open(out)
    found.check_belongs(checkpoint)
    return found


def ids_of(folder: Path, prompt: str, text: str) -> tuple[list[int], int]:
    """Ids with the end token, and how many of them are the prompt's."""
    tokenizer = open_tokenizer(folder)
    assert tokenizer.lead == []
    head = tokenizer.encode(prompt)
    return [*head, *tokenizer.encode(text[len(prompt) :]), tokenizer.eos_id], len(head)


def close(found: Any, expected: torch.Tensor, tolerance: float = 2e-6) -> None:
    wanted = expected.double()
    scale = float(wanted.abs().max())
    assert scale > 0
    torch.testing.assert_close(
        torch.as_tensor(found).double(), wanted, rtol=0, atol=tolerance * scale
    )


# Gram matrices


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
        close(found.array(name), matrix)
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
    close(found.array(head), total)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"twin": tensors[head].clone()}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"'lm_head\.weight' is not stored"):
        statistics_of(folder, tmp_path / "twins", "gram")


# Fisher


@pytest.mark.parametrize("rows", [ROWS, ROWS[2:3]])
def test_fisher_of_the_data_is_the_plain_loop(
    tied: Path, tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    """One backward pass for each row; only responses count where there is a prompt."""
    found = statistics_of(tied, tmp_path / "out", "fisher", rows, labels="data")
    model = load_model(tied)
    squares = {name: torch.zeros_like(p).double() for name, p in model.named_parameters()}
    num_tokens = 0
    for prompt, text in rows:
        ids, head = ids_of(tied, prompt, text)
        first = max(1, head)
        model.zero_grad()
        logits = model(input_ids=torch.tensor([ids])).logits[0, first - 1 : -1]
        wanted = torch.tensor(ids[first:])
        torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            squares[name] += parameter.grad.double() ** 2
        num_tokens += len(wanted)
    assert found.description.tokens == num_tokens
    assert found.names() == sorted(squares) == Checkpoint.open(tied).names()
    for name, total in squares.items():
        close(found.array(name), total / num_tokens, 1e-5)


def tiny() -> tuple[PreTrainedModel, list[Example]]:
    """A network of seven words, and two texts that it does not expect."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, initializer_range=0.4,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train(False)
    return model, [Example("0:0", [1, 2, 3, 6], [3, 6, 0]), Example("1:0", [4, 4], [5, 5])]


def exact_fisher(model: PreTrainedModel, examples: list[Example]) -> torch.Tensor:
    """Mean over positions of sum_v p(v) (d log p(v))^2: every label of every position."""
    parameters = list(model.parameters())
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    count = 0
    for example in examples:
        logits = model(input_ids=torch.tensor([example.inputs])).logits[0, -len(example.targets) :]
        for row in logits.log_softmax(-1):
            count += 1
            for value in row:
                grads = torch.autograd.grad(value, parameters, retain_graph=True)
                flat = torch.cat([g.flatten() for g in grads]).double()
                total += value.detach().exp().double() * flat**2
    return total / count


def test_sampled_fisher_estimates_the_expectation_over_the_vocabulary() -> None:
    model, examples = tiny()
    expected = exact_fisher(model, examples)
    parameters = list(model.parameters())

    def estimate(**options: Any) -> torch.Tensor:
        with progress.Bar("test", 1) as bar:
            parts = fisher(model, parameters, examples, bar, **options)
        return torch.cat([part.flatten() for part in parts])

    sampled = estimate(draws=1500)
    big = expected > expected.quantile(0.5)
    assert float(((sampled - expected).abs() / expected)[big].mean()) < 0.06
    assert float(sampled.sum() / expected.sum()) == pytest.approx(1, abs=0.03)
    of_data = estimate(labels="data")
    assert float(((of_data - expected).abs() / expected)[big].mean()) > 0.3
    # Another seed is another estimate, the same one repeats.
    assert torch.equal(estimate(draws=2, seed=1), estimate(draws=2, seed=1))
    assert not torch.equal(estimate(draws=2, seed=1), estimate(draws=2, seed=2))


def test_drawn_labels_do_not_depend_on_the_other_rows() -> None:
    """The same row gives the same gradient whichever rows stand before it."""
    model, examples = tiny()
    parameters = list(model.parameters())
    with progress.Bar("test", 1) as bar:
        both = fisher(model, parameters, examples, bar)
        apart = [fisher(model, parameters, [item], bar) for item in reversed(examples)]
    for whole, second, first in zip(both, *apart, strict=True):
        torch.testing.assert_close(whole * 5, first * 3 + second * 2, rtol=1e-9, atol=1e-12)
    # A row that stands in the data twice is drawn for twice.
    twin = Example("2:0", examples[0].inputs, examples[0].targets)
    with progress.Bar("test", 1) as bar:
        pairs = zip(
            fisher(model, parameters, [examples[0], twin], bar),
            fisher(model, parameters, [examples[0]], bar),
            strict=True,
        )
    assert not any(torch.allclose(both, one) for both, one in pairs)


def test_gradients_only_where_they_are_asked_for() -> None:
    model, examples = tiny()
    names = dict(model.named_parameters())
    head, query = names["lm_head.weight"], names["model.layers.0.self_attn.q_proj.weight"]
    with progress.Bar("test", 1) as bar:
        together = fisher(model, [head, query], examples, bar)
        alone = fisher(model, [head], examples, bar)
    assert not query.requires_grad
    torch.testing.assert_close(together[0], alone[0])


# Rows


@pytest.fixture(scope="module")
def tokenizer(tied: Path) -> TextTokenizer:
    return open_tokenizer(tied)


def test_long_texts_become_windows_in_which_each_token_is_predicted_once(
    tokenizer: TextTokenizer,
) -> None:
    text = "The quick brown fox jumps over the lazy dog, then sleeps. " * 4
    ids = [*tokenizer.encode(text), tokenizer.eos_id]
    found = choose([("", text)], tokenizer, context=7, limit=None, max_tokens=None, seed=0)
    windows = sorted(found.items, key=lambda item: int(item.name.split(":")[1]))
    assert len(windows) > 3
    assert [token for item in windows for token in item.inputs] == ids[:-1]
    assert [token for item in windows for token in item.targets] == ids[1:]
    assert max(len(item.inputs) for item in windows) == 7
    assert found.num_rows == 1


def test_pairs_predict_the_response_and_are_never_cut(tokenizer: TextTokenizer) -> None:
    pair = ROWS[0]
    ids = [*tokenizer.encode(pair[0]), *tokenizer.encode("5*1=5."), tokenizer.eos_id]
    (item,) = choose([pair], tokenizer, context=99, limit=None, max_tokens=None, seed=0).items
    assert item.inputs == ids[:-1]
    assert item.targets == [*tokenizer.encode("5*1=5."), tokenizer.eos_id]
    rows = [pair, ("", "T"), ("", "")]
    found = choose(rows, tokenizer, context=4, limit=None, max_tokens=None, seed=0)
    assert found.skipped == {"longer_than_context": 1, "nothing_to_predict": 1}
    assert [item.name for item in found.items] == ["1:0"]
    with pytest.raises(UserError, match="longer_than_context: 1"):
        choose([pair], tokenizer, context=4, limit=None, max_tokens=None, seed=0)


def test_limits_and_seed_choose_rows(tokenizer: TextTokenizer) -> None:
    rows = [("", f"{n}+{n}") for n in range(30)]

    def names(**changes: Any) -> list[str]:
        options = {"context": 9, "limit": None, "max_tokens": None, "seed": 0} | changes
        return [item.name for item in choose(rows, tokenizer, **options).items]

    assert len(names()) == 30
    assert len(names(limit=5)) == 5
    assert names(limit=5) == names(limit=5)
    assert set(names(limit=5)) <= set(names(limit=9))
    assert set(names(limit=5)) != set(names(limit=5, seed=1))
    most = choose(rows, tokenizer, context=9, limit=None, max_tokens=12, seed=0)
    assert 8 < most.num_tokens <= 12
    with pytest.raises(UserError, match="exceeds max_tokens"):
        names(max_tokens=1)


def test_batches_hold_rows_of_one_length_within_the_bounds() -> None:
    lengths = [5, 5, 5, 3, 3, 2]
    items = [Example(f"{n}:0", [n] * size, [0]) for n, size in enumerate(lengths)]
    assert [tuple(part.shape) for part in batches(items, 100)] == [(3, 5), (2, 3), (1, 2)]
    small = [tuple(part.shape) for part in batches(items, BATCH_LOGITS // 10)]
    assert small == [(2, 5), (1, 5), (2, 3), (1, 2)]


def test_rows_of_files(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("one\ntwo\n\n  \nthree\n")
    assert read_rows(text) == [("", "one\ntwo"), ("", "three")]
    rows = tmp_path / "a.jsonl"
    rows.write_text('{"text": "ab", "prompt": "a"}\n{"text": "c", "source": "x"}\n')
    assert read_rows(rows) == [("a", "ab"), ("", "c")]
    for bad, match in (
        ("[1]", "no JSON object"),
        ('{"prompt": "a"}', "no text"),
        ('{"text": "b", "prompt": "a"}', "does not begin"),
        ("", "empty"),
    ):
        rows.write_text(bad)
        with pytest.raises(UserError, match=match):
            read_rows(rows)
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "none.txt")
