"""Extraction against the singular value decomposition itself, and back through the adapter."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from smelt.checkpoint import peft
from smelt.checkpoint.adapter import Adapter, read_floats
from smelt.checkpoint.reader import Checkpoint, read_header, read_json
from smelt.core.errors import UserError
from smelt.merge.lora import extract_record
from smelt.merge.lora.adapter_folder import write_adapter
from smelt.merge.lora.extract import contents, plan
from smelt.merge.lora.lowrank import low_rank
from tests.adapters import GPT2, LLAMA, Arrays, adapted, floats, llama_tensors, write_model

Q = "model.layers.{}.self_attn.q_proj.weight"
UP = "model.layers.{}.mlp.up_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


def low(rows: int, columns: int, rank: int, seed: int = 3) -> Any:
    return floats(rows, rank, seed=seed) @ floats(rank, columns, seed=seed + 1) / np.float32(rank)


def spectrum(rows: int, columns: int, values: list[float]) -> Any:
    """A matrix of known singular values."""
    left = np.linalg.qr(floats(rows, len(values)).astype(np.float64))[0]
    right = np.linalg.qr(floats(columns, len(values), seed=1).astype(np.float64))[0]
    return ((left * values) @ right.T).astype(np.float32)


@pytest.mark.parametrize("shape", [(30, 90), (90, 30), (40, 40), (5, 9000), (9000, 5), (1, 7)])
def test_low_rank_is_the_truncated_decomposition(shape: tuple[int, int]) -> None:
    matrix = floats(*shape)
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    for rank in (1, 4, 500):
        found = low_rank(matrix, rank)
        count = min(rank, *shape)
        best = (left[:, :count] * values[:count]) @ right[:count]
        np.testing.assert_allclose(found.left @ found.right, best, rtol=0, atol=1e-5 * values[0])
        assert found.rank == count
        assert found.squares == pytest.approx(float((matrix.astype(np.float64) ** 2).sum()))
        share = (values[:count] ** 2).sum() / (values**2).sum()
        assert found.kept == pytest.approx(share, abs=1e-12)
        np.testing.assert_allclose(  # singular values are shared evenly
            np.linalg.norm(found.left, axis=0), np.linalg.norm(found.right, axis=1), rtol=1e-4
        )


@pytest.mark.parametrize(
    ("energy", "rank"), [(0.5, 1), (16 / 21 - 1e-6, 1), (16 / 21 + 1e-6, 2), (0.96, 3), (1.0, 3)]
)
def test_energy_chooses_the_smallest_rank(energy: float, rank: int) -> None:
    """Squares 16, 4 and 1 of 21."""
    matrix = spectrum(20, 30, [4, 2, 1])
    assert low_rank(matrix, 10, energy).rank == rank
    assert low_rank(matrix, 2, energy).rank == min(rank, 2)
    assert low_rank(matrix, 10).rank == 3  # no direction of mere rounding


def extracted(
    tmp_path: Path, base: Arrays, model: Arrays, configs: Any = (LLAMA, LLAMA), **keys: Any
) -> tuple[Arrays, dict[str, Any], Path]:
    """The adapted base, the notes of the run, and the adapter folder."""
    folders = [write_model(tmp_path / name, one, config) for name, one, config in (
        ("base", base, configs[0]), ("model", model, configs[1])
    )]  # fmt: skip
    job = plan({"model": str(folders[1]), "base": str(folders[0]), **keys}, "test")
    out = tmp_path / "out"
    out.mkdir()
    found = contents(job)
    notes = extract_record.facts(job, found, write_adapter(job, found, out, "base"))
    opened = Checkpoint.open(folders[0])
    return adapted(Adapter.open(out, opened), opened), notes, out


def tuned(base: Arrays, **updates: Any) -> Arrays:
    return {name: one + updates[name] if name in updates else one for name, one in base.items()}


def assert_close(found: Arrays, expected: Arrays) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5, err_msg=name)


def test_low_rank_changes_come_back(tmp_path: Path) -> None:
    base = llama_tensors()
    updates = {
        Q.format(0): low(16, 16, 2), Q.format(1): low(16, 16, 5), UP.format(0): low(40, 16, 5),
        EMBEDDING: low(24, 16, 5), "lm_head.weight": low(24, 16, 1),
        "model.layers.0.self_attn.q_proj.bias": floats(16), "model.norm.weight": floats(16, seed=7),
    }  # fmt: skip
    model = tuned(base, **updates)
    found, notes, out = extracted(tmp_path, base, model)
    assert_close(found, model)
    assert notes["energy"] == pytest.approx(1, abs=1e-6)
    ranks = {name: row["rank"] for name, row in notes["tensors"].items()}
    assert ranks == {
        Q.format(0): 2, Q.format(1): 5, UP.format(0): 5, EMBEDDING: 5, "lm_head.weight": 1
    }  # fmt: skip
    change = np.linalg.norm(updates[EMBEDDING]) / np.linalg.norm(base[EMBEDDING])
    assert notes["tensors"][EMBEDDING]["change"] == pytest.approx(change, rel=1e-4)
    assert (notes["saved_whole"], notes["biases"]) == (["model.norm"], 1)
    assert notes["left_out"] == {}
    assert notes["unchanged"] == len(base) - len(updates)
    config = read_json(out / peft.CONFIG)
    assert (config["r"], config["lora_alpha"], config["bias"]) == (5, 5, "lora_only")
    head, query = "^lm_head", "^model.layers.0.self_attn.q_proj"
    assert config["rank_pattern"] == config["alpha_pattern"] == {head: 1, query: 2}
    assert config["modules_to_save"] == ["model.norm"]
    # All q_proj are meant, but only one of the two up_proj.
    targets = ["embed_tokens", "lm_head", "model.layers.0.mlp.up_proj", "q_proj"]
    assert config["target_modules"] == targets
    assert sorted(read_header(out / peft.WEIGHTS)) == sorted(
        peft.PREFIX + name
        for name in (
            "lm_head.lora_A.weight", "lm_head.lora_B.weight",
            "model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B",
            "model.layers.0.mlp.up_proj.lora_A.weight", "model.layers.0.mlp.up_proj.lora_B.weight",
            "model.layers.0.self_attn.q_proj.base_layer.bias",
            "model.layers.0.self_attn.q_proj.lora_A.weight",
            "model.layers.0.self_attn.q_proj.lora_B.weight",
            "model.layers.1.self_attn.q_proj.lora_A.weight",
            "model.layers.1.self_attn.q_proj.lora_B.weight",
            "model.norm.weight",
        )
    )  # fmt: skip


def test_full_rank_changes_are_cut_and_counted(tmp_path: Path) -> None:
    base = llama_tensors()
    updates = {UP.format(0): floats(40, 16, seed=5), Q.format(0): floats(16, 16, seed=5)}
    found, notes, _ = extracted(tmp_path, base, tuned(base, **updates), rank=6)
    kept = total = 0.0
    for name, update in updates.items():
        exact = tuned(base, **updates)[name].astype(np.float64) - base[name]
        left, values, right = np.linalg.svd(exact, full_matrices=False)
        best = base[name] + (left[:, :6] * values[:6]) @ right[:6]
        np.testing.assert_allclose(found[name], best, rtol=0, atol=1e-5)
        share = (values[:6] ** 2).sum() / (values**2).sum()
        assert notes["tensors"][name]["energy"] == pytest.approx(share, rel=1e-5)
        kept, total = kept + (values[:6] ** 2).sum(), total + (update.astype(float) ** 2).sum()
    assert notes["energy"] == pytest.approx(kept / total, rel=1e-5)


def test_exclude_and_save(tmp_path: Path) -> None:
    base = llama_tensors()
    updates = {Q.format(0): low(16, 16, 2), UP.format(0): low(40, 16, 2), EMBEDDING: floats(24, 16),
               "model.layers.0.self_attn.q_proj.bias": floats(16)}  # fmt: skip
    model = tuned(base, **updates)
    keys = {"exclude": [r"layers\.\d+\.mlp"], "save": ["embed", "q_proj.bias"]}
    with pytest.raises(UserError, match="no matrix differs"):
        extracted(tmp_path / "1", base, model, **keys)
    found, notes, out = extracted(
        tmp_path / "2", base, tuned(model, **{Q.format(1): low(16, 16, 3)}), **keys
    )
    assert notes["saved_whole"] == ["model.embed_tokens", "model.layers.0.self_attn.q_proj"]
    assert list(notes["tensors"]) == [Q.format(1)]
    assert set(notes["left_out"]) == {UP.format(0)}
    assert notes["left_out"][UP.format(0)]["reason"] == "excluded"
    assert any("left out, excluded: 1" in line for line in extract_record.lines(notes))
    np.testing.assert_array_equal(found[UP.format(0)], base[UP.format(0)])
    for name in (EMBEDDING, Q.format(0), "model.layers.0.self_attn.q_proj.bias"):
        np.testing.assert_array_equal(found[name], model[name])
    assert read_json(out / peft.CONFIG)["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    lost = float((updates[UP.format(0)] ** 2).sum())
    total = lost + sum(float((u**2).sum()) for n, u in updates.items() if n != UP.format(0))
    total += float((low(16, 16, 3) ** 2).sum())
    assert notes["energy"] == pytest.approx(1 - lost / total, rel=1e-5)


@pytest.mark.parametrize("model_is_tied", [True, False])
def test_a_tied_embedding_is_saved_for_both(tmp_path: Path, model_is_tied: bool) -> None:
    base = llama_tensors(tied=True)
    model = tuned(base, **{EMBEDDING: floats(24, 16, seed=8), Q.format(0): low(16, 16, 2)})
    if not model_is_tied:
        model["lm_head.weight"] = floats(24, 16, seed=9)
    found, notes, out = extracted(tmp_path, base, model)
    assert notes["saved_whole"] == ["lm_head", "model.embed_tokens"]
    assert read_json(out / peft.CONFIG)["ensure_weight_tying"] is model_is_tied
    assert_close(found, model)


def test_an_unchanged_tied_embedding_is_not_stored(tmp_path: Path) -> None:
    base = llama_tensors(tied=True)
    model = tuned(base, **{Q.format(0): low(16, 16, 2)})
    found, notes, _ = extracted(tmp_path / "1", base, model)
    assert_close(found, model)
    assert notes["saved_whole"] == []
    changed = tuned(model, **{EMBEDDING: floats(24, 16)})
    found, notes, _ = extracted(tmp_path / "2", base, changed, exclude=["embed"])
    assert_close(found, model)
    assert notes["left_out"][EMBEDDING]["reason"] == "excluded"


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_conv1d(tmp_path: Path, prefix: str) -> None:
    shapes = {"h.0.attn.c_attn": (16, 48), "h.0.attn.c_proj": (16, 16), "wte": (24, 16)}
    base = {f"{prefix}{name}.weight": floats(*shape) for name, shape in shapes.items()}
    base[f"{prefix}h.0.attn.c_attn.bias"] = floats(48)
    model = {name: one + low(*one.shape, 3) if one.ndim == 2 else one for name, one in base.items()}
    model[f"{prefix}wte.weight"] = base[f"{prefix}wte.weight"]
    found, _, out = extracted(tmp_path, base, model, (GPT2, GPT2))
    assert_close(found, model)
    assert read_json(out / peft.CONFIG)["fan_in_fan_out"] is True
    header = read_header(out / peft.WEIGHTS)
    place = f"{peft.PREFIX}transformer.h.0.attn.c_attn"
    assert header[f"{place}.lora_A.weight"].shape == (3, 16)
    assert header[f"{place}.lora_B.weight"].shape == (48, 3)


def test_whole_modules_keep_their_type(tmp_path: Path) -> None:
    base = {name: one.astype(ml_dtypes.bfloat16) for name, one in llama_tensors().items()}
    model = tuned(base, **{Q.format(0): low(16, 16, 2).astype(ml_dtypes.bfloat16)})
    model["model.norm.weight"] = floats(16, seed=4).astype(ml_dtypes.bfloat16)
    _, _, out = extracted(tmp_path, base, model, rank=16)
    header = read_header(out / peft.WEIGHTS)
    norm = header[f"{peft.PREFIX}model.norm.weight"]
    assert norm.dtype == "BF16"
    np.testing.assert_array_equal(read_floats(norm), model["model.norm.weight"].astype(np.float32))
    assert header[f"{peft.PREFIX}{Q.format(0)[:-7]}.lora_A.weight"].dtype == "F32"


def test_vectors_between_modules_are_left_out_by_name(tmp_path: Path) -> None:
    extra = {
        "model.layers.0.mixer.decay": floats(5),
        "model.layers.0.mixer.out.weight": floats(4, 4),
    }
    base = llama_tensors() | extra
    model = tuned(base, **{Q.format(0): low(16, 16, 2), "model.layers.0.mixer.decay": floats(5)})
    _, notes, _ = extracted(tmp_path / "1", base, model)
    assert list(notes["left_out"]) == ["model.layers.0.mixer.decay"]
    with pytest.raises(UserError, match="belongs to a module with modules inside it"):
        extracted(tmp_path / "2", base, model, save=["decay"])


def test_a_killed_extraction_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smelt.merge.lora import adapter_folder

    base = llama_tensors()
    model = tuned(base, **{UP.format(0): floats(40, 16), UP.format(1): floats(40, 16, seed=2)})
    _, _, whole = extracted(tmp_path / "1", base, model, rank=4)
    again = tmp_path / "2"
    calls = []

    def counted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return low_rank(*args)

    monkeypatch.setattr(adapter_folder, "low_rank", counted)
    folders = [write_model(again / name, one) for name, one in (("base", base), ("m", model))]
    job = plan({"model": str(folders[1]), "base": str(folders[0]), "rank": 4}, "test")
    with pytest.raises(KeyboardInterrupt):
        write_adapter(job, contents(job), again, "base")
    write_adapter(job, contents(job), again, "base")
    assert len(calls) == 3
    for name in (peft.WEIGHTS, peft.CONFIG):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
    assert not (again / adapter_folder.PARTS).exists()


@pytest.mark.parametrize(
    ("change", "keys", "told"),
    [
        ({}, {}, "no matrix differs"),
        ({UP.format(0): floats(40, 15)}, {}, r"is \[40, 15\]. Expected \[40, 16\] as in the base"),
        ({EMBEDDING: floats(30, 16)}, {}, "resize the vocabulary"),
        ({"model.extra.weight": floats(2)}, {}, "'model.extra.weight' is not in the base"),
        ({UP.format(0): floats(40, 16) * np.float32("nan")}, {}, "holds NaN or infinity"),
        ({}, {"exclude": ["qproj"]}, "test: exclude: 'qproj' is in no tensor name"),
        ({}, {"save": ["("]}, r"test: save\[0\]: found '\('"),
        ({}, {"rank": 0}, "test: rank"),
        ({}, {"energy": 1.5}, "test: energy"),
        ({}, {"ranks": 3}, "unknown key. Expected 'rank'"),
    ],
)
def test_refused(tmp_path: Path, change: Arrays, keys: dict[str, Any], told: str) -> None:
    base = llama_tensors()
    with pytest.raises(UserError, match=told):
        extracted(tmp_path, base, base | change, **keys)


def test_models_that_do_not_belong_together(tmp_path: Path) -> None:
    base = llama_tensors()
    with pytest.raises(UserError, match="model_type is gpt2"):
        extracted(tmp_path / "1", base, base, (LLAMA, GPT2))
    folder = str(write_model(tmp_path / "one", base))
    with pytest.raises(UserError, match="are the same folder"):
        plan({"model": folder, "base": folder}, "test")
    missing = {name: one for name, one in base.items() if name != Q.format(0)}
    with pytest.raises(UserError, match=r"no tensor 'model.layers.0.self_attn.q_proj.weight'"):
        extracted(tmp_path / "2", base, missing)
    steps = {"steps": np.arange(3)}
    with pytest.raises(UserError, match="'steps' differs and is I64"):
        extracted(tmp_path / "3", base | steps, base | {"steps": np.arange(1, 4)})
