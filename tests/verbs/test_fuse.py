"""`smelt fuse`: pico models of different tokenizers, and the control that it is compared with."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.core import digest, registry
from smelt.core.errors import UserError
from smelt.data.document import write_jsonl
from smelt.models.load import load_model
from smelt.verbs import train
from smelt.verbs.fuse import check, execute
from tests.pico import pico_llama
from tests.train.rows import plain, train_data, write_sums


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("fuse")
    pico_llama(home / "pivot")
    pico_llama(home / "source", seed=1, hidden=48, layers=1, kind="sentencepiece_bpe")
    write_sums(home / "rows.jsonl")
    # A source that has learnt something the pivot lacks.
    train.execute(train_data(home / "rows.jsonl", model=str(home / "source"), batch_rows=8),
                  home / "trained", where="r")  # fmt: skip
    return home


def recipe(home: Path, **changes: Any) -> dict[str, Any]:
    models = {"pivot": str(home / "pivot"), "sources": {"other": str(home / "trained")}}
    data = train_data(home / "rows.jsonl", **{**models, **changes})
    del data["stage"]
    return data


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(folder).state_dict())


def test_end_to_end(home: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        execute(recipe(home), tmp_path / name, where="r")
    assert digest.files(tmp_path / "one") == digest.files(tmp_path / "two")
    assert not (tmp_path / "one" / "stores").exists()
    record = json.loads((tmp_path / "one/run.json").read_text())
    assert record["metrics"]["steps"] == 8
    chosen = record["chosen"]
    assert set(chosen) == {"pivot", "other"}
    rows = sum(chosen.values())
    assert 20 < rows <= 100  # only rows that the training reads are captured
    assert chosen["other"] > 10
    alignment = record["alignment"]
    assert alignment["rows"] == {"pivot": {"kept": rows}, "other": {"kept": rows}}
    assert alignment["steps"]["other"]["anchors"] > 0
    assert digest.file(tmp_path / "one/tokenizer.json") == digest.file(
        home / "pivot/tokenizer.json"
    )
    assert {name: facts["path"].split("/")[-1] for name, facts in record["inputs"].items()} == {
        "model": "pivot", "sources.other": "trained", "phases.0.0": "rows.jsonl",
        "phases.1.0": "rows.jsonl",
    }  # fmt: skip


def test_cross_entropy_alone_is_the_control(home: Path, tmp_path: Path) -> None:
    execute(recipe(home, ce_weight=1.0), tmp_path / "fused", where="r")
    control = train_data(home / "rows.jsonl", model=str(home / "pivot"))
    train.execute(control, tmp_path / "control", where="r")
    execute(recipe(home), tmp_path / "taught", where="r")
    fused, sft, taught = (weights(tmp_path / name) for name in ("fused", "control", "taught"))
    assert all(torch.equal(fused[name], sft[name]) for name in sft)
    assert not all(torch.equal(fused[name], taught[name]) for name in sft)
    curves = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("fused", "control")]
    assert curves[0] == curves[1]


def test_a_killed_fusion_ends_with_the_same_bytes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(recipe(home), tmp_path / "whole", where="r")
    load, calls = registry.load, 0

    def stopping(kind: str, name: str) -> Any:
        nonlocal calls
        calls += kind == "loss"
        if kind == "loss" and calls == 5:
            raise KeyboardInterrupt
        return load(kind, name)

    monkeypatch.setattr(registry, "load", stopping)
    with pytest.raises(KeyboardInterrupt):
        execute(recipe(home), tmp_path / "cut", where="r")
    execute(recipe(home), tmp_path / "cut", where="r")
    assert digest.files(tmp_path / "cut") == digest.files(tmp_path / "whole")


def test_a_padded_head_learns_the_same(home: Path, tmp_path: Path) -> None:
    """A pivot whose head has columns beyond its tokenizer captures and distills over tokens."""
    model = load_model(home / "pivot")
    model.resize_token_embeddings(model.config.vocab_size + 64, mean_resizing=False)
    shutil.copytree(home / "pivot", tmp_path / "pivot")
    model.save_pretrained(tmp_path / "pivot")
    execute(recipe(home, pivot=str(tmp_path / "pivot")), tmp_path / "padded", where="r")
    record = json.loads((tmp_path / "padded/run.json").read_text())
    assert weights(tmp_path / "padded")["lm_head.weight"].shape[0] == model.config.vocab_size
    assert record["chosen"]["other"] > 10


def test_check_tells_pairs_models_and_store(home: Path) -> None:
    lines = check(recipe(home), where="r")
    assert lines[0].startswith("100 pairs, ")
    assert lines[1] == f"source other: {home / 'trained'}"
    assert lines[2].startswith("store: at most 0.1 MB") or lines[2].startswith("store: at most 0.0")


def test_bad_recipes(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_jsonl(tmp_path / "plain.jsonl", [plain("some text")])
    data = recipe(home)
    mixture = [{"path": str(tmp_path / "plain.jsonl")}]
    data["phases"] = [{"steps": 1, "mixture": mixture}]
    for changes, message in (
        (data, "r: row [0-9a-f]{16} of .*plain.jsonl has no prompt. Expected pairs only"),
        (recipe(home, sources={"pivot": "x"}), "one is named 'pivot'"),
        (recipe(home, sources={}), "r: sources"),
        (recipe(home, sources={"x": str(tmp_path / "no")}), "no such folder"),
        (recipe(home, loss="kl"), "loss 'kl': no such plug-in"),
        (recipe(home, loss_options={"share": 1}), "loss_options.share: unknown key"),
        (recipe(home, ce_weight=1.5), "r: ce_weight: found 1.5"),
        (recipe(home, context=4096), "context 4096, the model has 128"),
        (recipe(home, alignment="x"), "alignment 'x': no such plug-in"),
    ):
        with pytest.raises(UserError, match=message):
            execute(changes, out, where="r")
        assert not out.exists()
        assert not out.with_name("out.partial").exists()


def test_models_that_begin_their_texts_with_a_token(home: Path, tmp_path: Path) -> None:
    """Fused with itself after begin-of-text, every step meets itself: nothing is unaligned."""
    for name in ("pivot", "source"):
        folder = shutil.copytree(home / "trained", tmp_path / name)
        raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
        raw.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))]
        )
        raw.save(str(folder / "tokenizer.json"))
    assert open_tokenizer(tmp_path / "pivot").lead
    models = {"pivot": str(tmp_path / "pivot"), "sources": {"other": str(tmp_path / "source")}}
    execute(recipe(home, **models, rule="avg_ce"), tmp_path / "out", where="r")
    alignment = json.loads((tmp_path / "out/run.json").read_text())["alignment"]
    steps = {"anchors": alignment["student_steps"], "unaligned": 0}
    assert alignment["steps"]["other"] == steps
    assert alignment["steps"]["pivot"] == {**steps, "no_model": 0}
