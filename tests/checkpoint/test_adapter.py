"""Adapters against PEFT's formulas, written out; what PEFT itself merged was compared by hand."""

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from smelt.checkpoint import peft
from smelt.checkpoint.adapter import PANEL, Adapter
from smelt.checkpoint.reader import Checkpoint
from smelt.core.errors import UserError
from tests.adapters import (
    GPT2,
    Arrays,
    adapted,
    floats,
    llama_tensors,
    write_adapter,
    write_model,
)

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.1.mlp.up_proj"
EMBEDDING = "model.embed_tokens"


def linear(module: str, shape: tuple[int, int], rank: int = 4) -> Arrays:
    """Factors of a linear layer (outputs, inputs)."""
    return {
        f"{module}.lora_A.weight": floats(rank, shape[1], seed=1),
        f"{module}.lora_B.weight": floats(shape[0], rank, seed=2),
    }


def product(factors: Arrays, module: str) -> Any:
    return factors[f"{module}.lora_B.weight"] @ factors[f"{module}.lora_A.weight"]


def opened(tmp_path: Path, base: Arrays, factors: Arrays, **settings: Any) -> Arrays:
    """The adapted model; base and adapter are written to folders first."""
    config = settings.pop("config", None)
    folder = write_model(tmp_path / "base", base, *([config] if config else []))
    model = Checkpoint.open(folder)
    return adapted(
        Adapter.open(write_adapter(tmp_path / "lora", factors, **settings), model), model
    )


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("adapter_name", ["", ".default", ".mine"])
def test_linear_layers(tmp_path: Path, use_rslora: bool, adapter_name: str) -> None:
    base = llama_tensors()
    factors = linear(Q, (16, 16)) | linear(UP, (40, 16))
    scale = 8 / math.sqrt(4) if use_rslora else 8 / 4
    expected = dict(base)
    for module in (Q, UP):
        expected[f"{module}.weight"] = base[f"{module}.weight"] + scale * product(factors, module)
    named = {name.replace(".weight", f"{adapter_name}.weight"): x for name, x in factors.items()}
    assert_same(opened(tmp_path, base, named, use_rslora=use_rslora), expected)


def test_patterns_give_ranks_and_alphas(tmp_path: Path) -> None:
    base = llama_tensors()
    other = "model.layers.1.self_attn.q_proj"
    factors = linear(Q, (16, 16), 3) | linear(UP, (40, 16)) | linear(other, (16, 16), 3)
    settings = {
        "rank_pattern": {"q_proj": 3},
        "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 5, "layers.[01].*.q_proj": 6},
    }
    expected = dict(base)
    for module, scale in ((Q, 5 / 3), (other, 6 / 3), (UP, 8 / 4)):
        expected[f"{module}.weight"] = base[f"{module}.weight"] + scale * product(factors, module)
    assert_same(opened(tmp_path, base, factors, **settings), expected)


def test_a_pattern_fits_a_whole_name_or_from_a_dot_on() -> None:
    settings = peft.LoraSettings(rank=4, rank_pattern={"proj": 2, "q.proj": 3})
    assert [settings.rank_of(name) for name in ("a.proj", "a.q_proj", "a.v_proj", "proj.a")] == [
        2, 3, 4, 4,
    ]  # fmt: skip


def embedding_factors(scale: float = 1.0) -> Arrays:
    return {
        f"{EMBEDDING}.lora_embedding_A": floats(4, 24) * np.float32(scale),
        f"{EMBEDDING}.lora_embedding_B": floats(16, 4),
    }


def embedding_update(factors: Arrays) -> Any:
    a, b = factors[f"{EMBEDDING}.lora_embedding_A"], factors[f"{EMBEDDING}.lora_embedding_B"]
    return 2 * (b @ a).T


def test_embeddings(tmp_path: Path) -> None:
    base, factors = llama_tensors(), embedding_factors()
    changed = base[f"{EMBEDDING}.weight"] + embedding_update(factors)
    assert_same(opened(tmp_path, base, factors), {**base, f"{EMBEDDING}.weight": changed})


def test_an_update_is_added_to_the_embedding_that_the_adapter_brings(tmp_path: Path) -> None:
    base, factors, own = llama_tensors(), embedding_factors(), floats(24, 16, seed=3)
    found = opened(tmp_path, base, {**factors, f"{EMBEDDING}.base_layer.weight": own})
    assert_same(found, {**base, f"{EMBEDDING}.weight": own + embedding_update(factors)})


@pytest.mark.parametrize(
    "spelling", ["{}.weight", "{}.modules_to_save.weight", "{}.modules_to_save.default.weight"]
)
def test_modules_to_save_replace(tmp_path: Path, spelling: str) -> None:
    base = llama_tensors()
    saved = {"lm_head": floats(24, 16, seed=4), "model.norm": floats(16, seed=4)}
    given = {spelling.format(name): array for name, array in saved.items()}
    found = opened(tmp_path, base, {**given, **linear(Q, (16, 16))})
    for name, array in saved.items():
        np.testing.assert_array_equal(found[f"{name}.weight"], array)
    np.testing.assert_array_equal(found[f"{EMBEDDING}.weight"], base[f"{EMBEDDING}.weight"])


def test_biases(tmp_path: Path) -> None:
    """bias="lora_only" replaces a bias, lora_bias adds a scaled one."""
    base, factors = llama_tensors(), linear(Q, (16, 16))
    found = opened(tmp_path / "1", base, {**factors, f"{Q}.base_layer.bias": floats(16, seed=8)})
    np.testing.assert_array_equal(found[f"{Q}.bias"], floats(16, seed=8))
    found = opened(tmp_path / "2", base, {**factors, f"{Q}.lora_B.bias": floats(16, seed=8)})
    expected = base[f"{Q}.bias"] + 2 * floats(16, seed=8)
    np.testing.assert_allclose(found[f"{Q}.bias"], expected, rtol=0, atol=1e-6)


def test_dora(tmp_path: Path) -> None:
    base, factors, lengths = llama_tensors(), linear(UP, (40, 16)), np.abs(floats(40)) + 1
    whole = base[f"{UP}.weight"] + 2 * product(factors, UP)
    expected = lengths[:, None] * whole / np.linalg.norm(whole, axis=1, keepdims=True)
    given = {**factors, f"{UP}.lora_magnitude_vector": lengths}
    assert_same(opened(tmp_path, base, given, use_dora=True), {**base, f"{UP}.weight": expected})


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_conv1d_is_stored_transposed(tmp_path: Path, prefix: str) -> None:
    """Also when square, and in a checkpoint that was saved without its head."""
    base = {
        f"{prefix}wte.weight": floats(24, 16),
        f"{prefix}h.0.attn.c_attn.weight": floats(16, 48),
        f"{prefix}h.0.attn.c_proj.weight": floats(16, 16),
    }
    expected, factors = dict(base), {}
    for layer, outputs in (("h.0.attn.c_attn", 48), ("h.0.attn.c_proj", 16)):
        pair = linear(f"transformer.{layer}", (outputs, 16))
        expected[f"{prefix}{layer}.weight"] = (
            base[f"{prefix}{layer}.weight"] + 2 * product(pair, f"transformer.{layer}").T
        )
        factors |= pair
    assert_same(opened(tmp_path, base, factors, config=GPT2), expected)


def test_the_flag_decides_for_square_matrices_of_unknown_models(tmp_path: Path) -> None:
    base, factors = {"net.a.weight": floats(16, 16)}, linear("net.a", (16, 16))
    expected = base["net.a.weight"] + 2 * product(factors, "net.a").T
    config = {"model_type": "own"}
    found = opened(tmp_path, base, factors, config=config, fan_in_fan_out=True)
    assert_same(found, {"net.a.weight": expected})


def alike_on_both() -> Arrays:
    factors = embedding_factors()
    return {
        **factors,
        "lm_head.lora_A.weight": factors[f"{EMBEDDING}.lora_embedding_B"].T.copy(),
        "lm_head.lora_B.weight": factors[f"{EMBEDDING}.lora_embedding_A"].T.copy(),
    }


@pytest.mark.parametrize("kind", ["embedding", "head", "both", "both_saved", "one_saved"])
def test_a_tied_base_is_parted_when_the_adapter_parts_it(tmp_path: Path, kind: str) -> None:
    """As the adapted network computes: head and embedding have updates of their own."""
    base = llama_tensors(tied=True)
    matrix, own = base[f"{EMBEDDING}.weight"], floats(24, 16, seed=6)
    head = linear("lm_head", (24, 16))
    update = embedding_update(embedding_factors())
    factors, embedding, expected = {
        "embedding": (embedding_factors(), matrix + update, matrix),
        "head": (head, matrix, matrix + 2 * product(head, "lm_head")),
        "both": (alike_on_both(), matrix + update, None),
        "both_saved": (dict.fromkeys((f"{EMBEDDING}.weight", "lm_head.weight"), own), own, None),
        "one_saved": ({f"{EMBEDDING}.weight": own}, own, matrix),
    }[kind]
    found = opened(tmp_path, base, factors)
    np.testing.assert_allclose(found[f"{EMBEDDING}.weight"], embedding, rtol=0, atol=1e-6)
    if expected is None:
        assert "lm_head.weight" not in found
    else:
        np.testing.assert_allclose(found["lm_head.weight"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("use_dora", [False, True])
def test_cuts_change_no_bit(tmp_path: Path, use_dora: bool) -> None:
    columns = 1000
    rows = 3 * (PANEL // columns) + 5
    base = {"model.layers.0.mlp.up_proj.weight": floats(rows, columns)}
    factors = linear("model.layers.0.mlp.up_proj", (rows, columns), 13)
    if use_dora:
        factors["model.layers.0.mlp.up_proj.lora_magnitude_vector"] = np.abs(floats(rows))
    model = Checkpoint.open(write_model(tmp_path / "base", base))
    folder = write_adapter(tmp_path / "lora", factors, r=13, use_dora=use_dora)
    whole, *others = (
        adapted(Adapter.open(folder, model), model, block_rows=block)
        for block in (rows, 1, 7, 64, 65, 131)
    )
    for other in others:
        for name, array in whole.items():
            assert array.tobytes() == other[name].tobytes()


def test_float64_rows_and_half_precision_factors(tmp_path: Path) -> None:
    base = {f"{Q}.weight": floats(16, 16).astype(np.float64)}
    factors = {name: x.astype(ml_dtypes.bfloat16) for name, x in linear(Q, (16, 16)).items()}
    model = Checkpoint.open(write_model(tmp_path / "base", base))
    adapter = Adapter.open(write_adapter(tmp_path / "lora", factors), model)
    rows = base[f"{Q}.weight"].copy()
    adapter.add_to(f"{Q}.weight", 0, rows)
    wide = {name: x.astype(np.float64) for name, x in factors.items()}
    expected = base[f"{Q}.weight"] + 2 * product(wide, Q)
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-14)


def test_what_it_touches(tmp_path: Path) -> None:
    base = Checkpoint.open(write_model(tmp_path / "base", llama_tensors()))
    given = {**linear(Q, (16, 16)), "model.norm.weight": floats(16)}
    folder = write_adapter(tmp_path / "lora", given, base_model_name_or_path="org/base")
    adapter = Adapter.open(folder, base)
    assert adapter.base_model == "org/base"
    assert adapter.names() == [f"{Q}.weight", "model.norm.weight"]
    assert [name for name in base.names() if adapter.touches(name)] == adapter.names()
    assert adapter.replaces(f"{Q}.weight") is None
    untouched = floats(40, 16)
    adapter.add_to(f"{UP}.weight", 0, untouched)
    np.testing.assert_array_equal(untouched, floats(40, 16))


def assert_refused(tmp_path: Path, factors: Arrays, told: str, **settings: Any) -> None:
    base = llama_tensors(tied=bool(settings.pop("tied", False)))
    with pytest.raises(UserError, match=told):
        opened(tmp_path, base, factors, **settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"target_parameters": ["mlp.experts.up"]}, "'target_parameters' is set"),
        ({"trainable_token_indices": [1]}, "'trainable_token_indices' is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"r": 0}, "adapter_config.json: r"),
        ({"r": "8"}, "adapter_config.json: r"),
        ({"rank_pattern": {"(": 3}}, r"'\(' is no regular expression"),
        ({"r": 5}, "rank 4 and 4, adapter_config.json says 5"),
        ({"use_dora": True}, "no lora_magnitude_vector"),
    ],
)
def test_settings_are_refused(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    assert_refused(tmp_path, linear(Q, (16, 16)), told, **settings)


A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
GOOD = linear(Q, (16, 16))


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        (linear("model.layers.7.mlp.up_proj", (40, 16)), r"'model.layers.7.*no tensor in"),
        ({"model.layers.7.norm.weight": floats(16)}, r"'model.layers.7.norm.weight' is no tensor"),
        ({A: GOOD[A]}, f"{Q}: one of the two factors is missing"),
        (linear(Q, (16, 18)), r"an update of \[16, 18\] for a weight of \[16, 16\]"),
        # Factors of the transposed shape fit a Conv1D, of which a Llama has none.
        (linear(UP, (16, 40)), r"an update of \[16, 40\] for a weight of \[40, 16\]"),
        ({**GOOD, f"{Q}.lora_C.weight": floats(2)}, "lora_C.weight' is not of a LoRA"),
        ({**GOOD, f"{Q}.lora_A.x.y.weight": floats(2)}, "is not of a LoRA"),
        ({**GOOD, f"{UP}.lora_A.x.weight": floats(4, 16)}, "several adapters"),
        ({A: floats(4, 16, 1), B: floats(16, 4, 1)}, "convolutions are not supported"),
        ({**GOOD, A: GOOD[A].astype(np.int32)}, "lora_A.weight' is I32"),
        ({A: GOOD[A] * np.float32("nan"), B: GOOD[B]}, "holds NaN or infinity"),
        ({f"{EMBEDDING}.weight": floats(25, 16)}, r"shape \[25, 16\].*resizes the vocabulary"),
        ({f"{EMBEDDING}.token_adapter.trainable_tokens_delta": floats(2)}, "is not of a LoRA"),
        (
            {**embedding_factors(), f"{EMBEDDING}.lora_magnitude_vector": floats(16)},
            "DoRA on an embedding",
        ),
    ],
)
def test_tensors_are_refused(tmp_path: Path, factors: Arrays, told: str) -> None:
    assert_refused(tmp_path, factors, told)


@pytest.mark.parametrize(
    ("file", "told"), [("adapter_model.bin", "only adapter_model.bin"), (None, "no adapter_model")]
)
def test_files_are_refused(tmp_path: Path, file: str | None, told: str) -> None:
    base = Checkpoint.open(write_model(tmp_path / "base", llama_tensors()))
    folder = write_adapter(tmp_path / "lora", GOOD)
    (folder / peft.WEIGHTS).unlink()
    if file:
        (folder / file).write_bytes(b"pickle")
    with pytest.raises(UserError, match=told):
        Adapter.open(folder, base)
    (folder / peft.CONFIG).unlink()
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        Adapter.open(folder, base)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    base = Checkpoint.open(write_model(tmp_path / "base", llama_tensors()))
    folder = write_adapter(tmp_path / "lora", GOOD)
    path = folder / peft.WEIGHTS
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="truncated"):
        Adapter.open(folder, base)
    (folder / peft.CONFIG).write_text(json.dumps([1]))
    with pytest.raises(UserError, match="a JSON list"):
        Adapter.open(folder, base)


class Watched(np.ndarray[Any, Any]):
    """An array that notes on how many threads each product with it is computed."""

    seen: list[int] = []  # noqa: RUF012

    def __matmul__(self, other: Any) -> Any:
        threads = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
        self.seen.append(max(threads))
        return np.asarray(self) @ other


def test_products_are_computed_on_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "base", llama_tensors())
    model = Checkpoint.open(folder)
    shape = model.spec(f"{Q}.weight").shape
    lora = write_adapter(tmp_path / "lora", linear(Q, (shape[0], shape[1])))
    adapter = Adapter.open(lora, model)
    load = adapter._load
    monkeypatch.setattr(
        adapter,
        "_load",
        lambda *key: (load(*key)[0].view(Watched), *load(*key)[1:]),
    )
    with threadpool_limits(2, user_api="blas"):
        rows = np.zeros(shape, dtype=np.float32)
        adapter.add_to(f"{Q}.weight", 0, rows)
    assert rows.any()
    assert set(Watched.seen) == {1}


@pytest.mark.parametrize("name", [peft.CONFIG, peft.WEIGHTS])
def test_files_that_are_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "base", llama_tensors())
    model = Checkpoint.open(folder)
    shape = model.spec(f"{Q}.weight").shape
    lora = write_adapter(tmp_path / "lora", linear(Q, (shape[0], shape[1])))
    (lora / name).rename(tmp_path / "outside")
    (lora / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=f"{name}: a link that leaves the folder"):
        Adapter.open(lora, model)
