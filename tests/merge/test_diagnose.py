"""`smelt inspect`: every number against a plain formula, the same for any number of threads."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from smelt.checkpoint import layout
from smelt.merge.kinship import diagnose
from smelt.merge.kinship.ancestry import ancestry
from smelt.merge.model import Model
from tests.merge.conftest import load, rewrite
from tests.pico import pico_llama
from tests.weights import write_checkpoint

Vectors = dict[str, NDArray[Any]]


def partly(base: Path, folder: Path, *, seed: int, share: float, dtype: torch.dtype) -> Path:
    """A fine-tune that changed a share of the elements of every matrix, and no norm."""
    folder.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    made = torch.Generator().manual_seed(seed)
    (folder / "model.safetensors").touch()
    moved = {}
    for name, one in load(base).items():
        noise = torch.randn(one.shape, generator=made)
        chosen = torch.rand(one.shape, generator=made) < share
        moved[name] = (one + 0.05 * noise * chosen * (one.dim() > 1)).to(dtype)
    rewrite(folder, moved)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inspected")
    base = pico_llama(root / "base", layers=3)
    rewrite(base, {name: one.to(torch.bfloat16) for name, one in load(base).items()})
    partly(base, root / "a", seed=1, share=0.5, dtype=torch.bfloat16)
    partly(base, root / "b", seed=2, share=0.3, dtype=torch.float32)
    partly(base, root / "c", seed=3, share=0.9, dtype=torch.float32)
    return root


def opened(home: Path, *names: str) -> dict[str, Model]:
    return {name: Model.open(str(home / name)) for name in names}


def vectors(home: Path, names: list[str], layer: int | None, block: str) -> Vectors:
    """All elements of a part of each model, one after the other, in float64."""
    result = {}
    for name in names:
        parts = [
            one.double().numpy().ravel()
            for tensor, one in load(home / name).items()
            if layout.layer_of(tensor) == layer and layout.block_of(tensor) == block
        ]
        result[name] = np.concatenate(parts)
    return result


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_task_vectors_against_plain_formulas(home: Path) -> None:
    record = diagnose.inspect(opened(home, "base", "a", "b", "c"), "base")
    assert record["compared"] == ["a", "b", "c"]
    assert record["pairs"] == [["a", "b"], ["a", "c"], ["b", "c"]]
    parts = [(cell["layer"], cell["block"]) for cell in record["layers"]]
    assert parts == [
        (None, "embedding"),
        *[(layer, block) for layer in range(3) for block in ("attention", "mlp", "norm")],
        (None, "norm"),
    ]
    for cell in record["layers"]:
        found = vectors(home, ["base", "a", "b", "c"], cell["layer"], cell["block"])
        base = found.pop("base")
        deltas = {name: one - base for name, one in found.items()}
        assert cell["elements"] == base.size
        expected = [np.linalg.norm(d) / np.linalg.norm(base) for d in deltas.values()]
        np.testing.assert_allclose(cell["moved"], expected, rtol=1e-12)
        assert cell["changed"] == [np.mean(d != 0) for d in deltas.values()]
        if cell["block"] == "norm":
            assert cell["cosine"] == cell["same_sign"] == cell["overlap"] == [None] * 3
            continue
        for place, (one, other) in enumerate(record["pairs"]):
            a, b = deltas[one], deltas[other]
            assert cell["cosine"][place] == pytest.approx(cosine(a, b), abs=1e-12)
            ratio = np.linalg.norm(a) / np.linalg.norm(b)
            assert cell["norm_ratio"][place] == pytest.approx(ratio, rel=1e-12)
            both, either = (a != 0) & (b != 0), (a != 0) | (b != 0)
            assert cell["overlap"][place] == both.sum() / either.sum()
            assert cell["same_sign"][place] == (np.sign(a) == np.sign(b))[both].mean()


def test_weights_against_plain_formulas(home: Path) -> None:
    record = diagnose.inspect(opened(home, "c", "a"))
    assert (record["base"], record["compared"]) == (None, ["c", "a"])
    for cell in record["layers"]:
        found = vectors(home, ["c", "a"], cell["layer"], cell["block"])
        c, a = found["c"], found["a"]
        norms = [np.linalg.norm(c), np.linalg.norm(a)]
        np.testing.assert_allclose(cell["norm"], norms, rtol=1e-12)
        assert cell["cosine"][0] == pytest.approx(cosine(c, a), rel=1e-12)
        distance = np.linalg.norm(c - a) / np.mean(norms)
        assert cell["distance"][0] == pytest.approx(distance, rel=1e-9, abs=1e-12)
        assert cell["differing"][0] == np.mean(c != a)
        assert "moved" not in cell


def test_thirds_and_the_whole_are_sums_of_parts(home: Path) -> None:
    record = diagnose.inspect(opened(home, "base", "a", "b"), "base")
    assert [(c["depth"], c["block"]) for c in record["depths"]] == [
        (None, "embedding"),
        *[(d, b) for d in ("early", "middle", "late") for b in ("attention", "mlp", "norm")],
        (None, "norm"),
    ]
    late = next(c for c in record["depths"] if (c["depth"], c["block"]) == ("late", "mlp"))
    assert late["cosine"] == next(
        c["cosine"] for c in record["layers"] if (c["layer"], c["block"]) == (2, "mlp")
    )
    names = list(load(home / "a"))
    whole = [
        np.concatenate([load(home / one)[name].double().numpy().ravel() for name in names])
        for one in ("base", "a", "b")
    ]
    a, b = whole[1] - whole[0], whole[2] - whole[0]
    assert record["total"]["elements"] == a.size
    assert record["total"]["cosine"][0] == pytest.approx(cosine(a, b), abs=1e-12)


def test_small_changes_of_large_weights_keep_their_direction(home: Path, tmp_path: Path) -> None:
    """Differences are taken before products: nothing is lost to the size of the weights."""
    tensors = {name: one.double() for name, one in load(home / "base").items()}
    made = torch.Generator().manual_seed(0)
    steps = [
        {n: torch.randn(t.shape, generator=made, dtype=torch.double) for n, t in tensors.items()}
        for _ in range(2)
    ]
    for place, step in enumerate([None, *steps]):
        folder = pico_llama(tmp_path / str(place), layers=3)
        rewrite(folder, {n: t + (1e-9 * step[n] if step else 0.0) for n, t in tensors.items()})
    record = diagnose.inspect(opened(tmp_path, "0", "1", "2"), "0")
    flat = [np.concatenate([one.numpy().ravel() for one in step.values()]) for step in steps]
    assert record["total"]["cosine"][0] == pytest.approx(cosine(*flat), abs=1e-5)
    expected = np.linalg.norm(flat[0]) * 1e-9
    norm = math.sqrt(sum(float((one**2).sum()) for one in tensors.values()))
    assert record["total"]["moved"][0] == pytest.approx(expected / norm, rel=1e-5)


def test_threads_and_order_change_nothing(home: Path) -> None:
    models = opened(home, "base", "a", "b")
    one = diagnose.inspect(models, "base", threads=1)
    assert json.dumps(one, allow_nan=False) == json.dumps(
        diagnose.inspect(models, "base", threads=3), allow_nan=False
    )
    turned = diagnose.inspect(opened(home, "b", "base", "a"), "base")
    assert turned["pairs"] == [["b", "a"]]
    assert turned["total"]["cosine"] == pytest.approx(one["total"]["cosine"], rel=1e-12)
    assert turned["total"]["norm_ratio"][0] == pytest.approx(1 / one["total"]["norm_ratio"][0])


def test_blocks_of_rows_add_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = opened(home, "base", "a", "b")
    whole = diagnose.inspect(models, "base")["total"]
    monkeypatch.setattr("smelt.merge.blocks.Blocks.rows_per_block", 3)
    small = diagnose.inspect(models, "base")["total"]
    for key in ("elements", "changed", "overlap", "same_sign"):
        assert small[key] == whole[key]
    np.testing.assert_allclose(small["cosine"], whole["cosine"], rtol=0, atol=1e-13)


def test_other_shapes_are_refused_with_the_reason_and_the_rest_compared(
    home: Path, tmp_path: Path
) -> None:
    models = opened(home, "a", "b")
    for name, given in {"wide": {"hidden": 64}, "deep": {"layers": 4}}.items():
        models[name] = Model.open(str(pico_llama(tmp_path / name, **({"layers": 3} | given))))
    record = diagnose.inspect(models)
    assert record["compared"] == ["a", "b"]
    assert record["refused"] == {
        "wide": "hidden_size is 64, expected 32, as in a",
        "deep": "a has no tensor 'model.layers.3.input_layernorm.weight' and 8 more,"
        " which deep has",
    }
    assert [f["models"] for f in record["ancestry"]["families"]] == [["a", "b"], ["wide"], ["deep"]]
    assert record["ancestry"]["cosines"][0][2] is None


def test_nothing_to_compare_is_a_result_too(home: Path, tmp_path: Path) -> None:
    models = opened(home, "a") | {"w": Model.open(str(pico_llama(tmp_path / "w", hidden=64)))}
    record = diagnose.inspect(models)
    assert list(record["refused"]) == ["w"]
    assert record["total"] is None
    assert record["layers"] == record["depths"] == record["pairs"] == []


def test_another_vocabulary_leaves_the_embedding_out(home: Path, tmp_path: Path) -> None:
    models = opened(home, "base", "a")
    tensors = load(home / "b")
    name = "model.embed_tokens.weight"
    tensors[name] = torch.cat([tensors[name], torch.zeros(2, 32)])
    longer = pico_llama(tmp_path / "longer", layers=3)
    rewrite(longer, tensors)
    models["longer"] = Model.open(str(longer))
    record = diagnose.inspect(models, "base")
    assert record["refused"] == {}
    tokens = tensors[name].shape[0]
    assert record["left_out"] == {
        name: f"other numbers of tokens: {tokens - 2} in base, {tokens - 2} in a,"
        f" {tokens} in longer"
    }
    assert record["layers"][0]["layer"] == 0
    assert record["facts"]["longer"]["vocabulary"] == tokens


def test_differences_are_named(home: Path, tmp_path: Path) -> None:
    models = opened(home, "base", "b")
    folder = pico_llama(tmp_path / "untied", seed=9, layers=3, tied=False)
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = 500000.0
    config.pop("rope_parameters", None)
    config["max_position_embeddings"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    models["untied"] = Model.open(str(folder))
    record = diagnose.inspect(models, "base")
    text = "\n".join(record["differences"])
    for words in (
        "rope_theta differs: 500000.0 in untied, 10000.0 in base",
        "max_position_embeddings differs: 4096 in untied, 128 in base",
        "dtype differs: float32 in b, bfloat16 in base",
        "own head in untied",
        "untied does not look tuned from the base base: too far from it",
    ):
        assert words in text
    assert record["facts"]["untied"]["head"] == "own"
    assert record["facts"]["base"]["head"] == "tied"
    assert record["layers"][-1]["block"] == "head"


def test_a_language_model_and_one_inside_a_vision_language_model(
    home: Path, tmp_path: Path
) -> None:
    folder = pico_llama(tmp_path / "vlm", layers=3)
    tensors = {
        name.replace("model.", "model.language_model.", 1): one
        for name, one in load(home / "c").items()
    }
    rewrite(folder, tensors | {"model.visual.blocks.0.attn.qkv.weight": torch.ones(4, 4)})
    config = json.loads((folder / "config.json").read_text())
    nested = {"model_type": "pico_vl", "text_config": config, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(nested))
    vlm = Model.open(str(folder))
    record = diagnose.inspect(opened(home, "base", "a") | {"vlm": vlm}, "base")
    plain = diagnose.inspect(opened(home, "base", "a", "c"), "base")
    assert record["refused"] == {}
    assert record["left_out"] == {"model.visual.blocks.0.attn.qkv.weight": "not in base, a"}
    assert record["layers"] == plain["layers"]
    sampled = ancestry({"vlm": vlm} | opened(home, "base", "a", "b"))
    assert [(f.models, f.base) for f in sampled.families] == [(["vlm", "base", "a", "b"], "base")]


def test_an_adapter_is_applied_and_compared(home: Path, tmp_path: Path) -> None:
    base = home / "base"
    name = "model.layers.1.mlp.up_proj"
    rows, columns = load(base)[f"{name}.weight"].shape
    a, b = torch.randn(1, columns), torch.randn(rows, 1)
    adapter = tmp_path / "lora"
    adapter.mkdir()
    stem = f"base_model.model.{name}"
    write_checkpoint(tmp_path / "weights", {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b})
    (tmp_path / "weights/model.safetensors").rename(adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["up_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    models = opened(home, "base") | {"tuned": Model.open(f"{base}+{adapter}")}
    record = diagnose.inspect(models, "base")
    cells = {(c["layer"], c["block"]): c["moved"][0] for c in record["layers"]}
    assert [place for place, moved in cells.items() if moved] == [(1, "mlp")]
    norm = np.linalg.norm(vectors(home, ["base"], 1, "mlp")["base"])
    assert cells[1, "mlp"] == pytest.approx(float((2 * b @ a).norm()) / norm, rel=1e-4)


def test_nan_is_left_out_and_named(home: Path, tmp_path: Path) -> None:
    broken = pico_llama(tmp_path / "broken", layers=3)
    tensors = load(home / "a")
    tensors["model.layers.1.mlp.up_proj.weight"][0, :2] = float("nan")
    rewrite(broken, tensors)
    models = opened(home, "base", "b") | {"broken": Model.open(str(broken))}
    record = diagnose.inspect(models, "base")
    assert record["left_out"] == {
        "model.layers.1.mlp.up_proj.weight": "2 values in broken are NaN or infinite"
    }
    assert json.dumps(record, allow_nan=False)
    cells = {(c["layer"], c["block"]): c["tensors"] for c in record["layers"]}
    assert (cells[0, "mlp"], cells[1, "mlp"]) == (3, 2)


def test_a_wrong_base_is_told(home: Path) -> None:
    record = diagnose.inspect(opened(home, "a", "base", "b", "c"), "a")
    assert "base looks more like the base than a does" in record["differences"]
