"""Parity: equal tokenizers pass, one wrong name fails, and the figures are those of a formula."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers import LlamaConfig, LlamaForCausalLM

from smelt.core.errors import UserError
from smelt.export import battery, parity, runtime
from smelt.export import pretokenizer as names
from smelt.export.targets.gguf import gguf
from smelt.export.vocabulary import Vocabulary, read_vocabulary
from smelt.models.load import load_model
from tests.export.conftest import KINDS

SHARED = Path(__file__).resolve().parents[3] / "shared"
STORIES = SHARED / "models" / "stories260k"


def vocabulary_of(folder: Path) -> Vocabulary:
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    return read_vocabulary(folder, rows)


def num_equal(folder: Path, tmp_path: Path) -> int:
    path = gguf(folder, tmp_path / "m.gguf")
    with runtime.start(path, num_ctx=64) as running:
        return parity.compare_tokenizer(running, folder, vocabulary_of(folder))


def agreement_of(folder: Path, file: Path, num_steps: int = 8) -> parity.Agreement:
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompts = [list(raw.encode(text).ids) for text in battery.PROMPTS]
    with runtime.start(file, num_ctx=128) as running:
        return parity.compare_logits(
            running, load_model(folder), prompts, vocabulary_of(folder), num_steps
        )


def with_random_network(folder: Path, rows: int) -> Path:
    """A small random Llama around the tokenizer in a folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_battery_is_wide_and_fixed() -> None:
    texts = battery.texts()
    assert texts == battery.texts()
    assert len(texts) > 300
    joined = "".join(texts)
    for part in ("max[352]*1-2=", "天地", "🙂", "\t", "\r\n", " " * 16, "def add", "½", "\u0301"):
        assert part in joined or part == "\u0301"


@pytest.mark.parametrize("kind", KINDS)
def test_our_tokenizers_are_equal(kind: str, picos: dict[str, Path], tmp_path: Path) -> None:
    added = {"byte_bpe": 2, "sentencepiece_bpe": 2}[kind]  # control tokens; <unk> is no text
    expected = len(battery.texts()) + len(battery.texts_with(["x"] * added))
    assert num_equal(picos[kind], tmp_path) == expected


@pytest.mark.parametrize(
    ("pattern", "ignore_merges", "nfc"),
    [
        (names.GPT2, False, False),
        (names.QWEN2, False, True),
        (names.LLAMA3, True, False),
        (names.LLAMA3, False, False),
    ],
)
def test_every_mapped_split_is_equal(
    pattern: str, ignore_merges: bool, nfc: bool, tmp_path: Path
) -> None:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    cut = pre.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre.Sequence(
        [cut, pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=sorted(pre.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(battery.texts() * 2, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    folder = with_random_network(tmp_path, tokenizer.get_vocab_size())
    assert num_equal(folder, tmp_path) > 300


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("byte_bpe", {"pre": "gpt-2"}, "texts"),
        ("sentencepiece_bpe", {"add_space_prefix": False}, "texts"),
    ],
)
def test_a_wrong_kind_is_caught(
    kind: str,
    change: dict[str, Any],
    told: str,
    picos: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = names.kind_of

    def wrong(tokenizer: dict[str, Any], where: object) -> names.Kind:
        return names.Kind(**{**vars(right(tokenizer, where)), **change})

    monkeypatch.setattr("smelt.export.vocabulary.kind_of", wrong)
    with pytest.raises(UserError, match=f"tokenized otherwise.*{told}"):
        num_equal(picos[kind], tmp_path)


def test_constant_scores_are_caught(
    picos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the stock converter writes for such tokenizers: one score for all."""
    monkeypatch.setattr(
        "smelt.export.vocabulary._scores", lambda tokens, merges: [-1000.0] * len(tokens)
    )
    with pytest.raises(UserError, match="tokenized otherwise"):
        num_equal(picos["sentencepiece_bpe"], tmp_path)


def test_figures_against_the_formula(pico: Path, tmp_path: Path) -> None:
    """A file of another network: divergence and differences equal those of two transformers."""
    other = Path(shutil.copytree(pico, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    file = gguf(other, tmp_path / "m.gguf", quantize="f32")
    prompt, vocabulary = [40, 41, 42], vocabulary_of(pico)
    model, changed = load_model(pico), load_model(other)
    with runtime.start(file, num_ctx=128) as running:
        found = parity.compare_logits(running, model, [prompt], vocabulary, 6)
    ids = list(prompt)
    kl, differences, hits = [], [], []
    with torch.inference_mode():
        for _ in range(found.positions):
            p = model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
            q = changed(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
            kl.append(float((p.exp() * (p - q)).sum()))
            differences += (p - q).abs()[p > -15].tolist()
            hits.append(bool(p.argmax() == q.argmax()))
            ids.append(int(q.argmax()))
    assert found.kl == pytest.approx(sum(kl) / len(kl), rel=1e-3)
    assert found.max_difference == pytest.approx(max(differences), rel=1e-3)
    assert found.mean_difference == pytest.approx(sum(differences) / len(differences), rel=1e-3)
    assert found.top1_agreement == sum(hits) / len(hits)
    with pytest.raises(UserError, match="divergence"):
        parity.require(found, "f16", "m.gguf")


def test_bounds() -> None:
    good = parity.Agreement(1, 1, 1.0, 1.0, 0.0, 1e-5, 1e-6)
    for quantize in parity.TOLERANCES:
        parity.require(good, quantize, "m")
    for bad in (
        parity.Agreement(1, 1, 1.0, 1.0, float("nan"), 0.0, 0.0),
        parity.Agreement(1, 1, 1.0, 1.0, 0.02, 0.0, 0.0),
    ):
        with pytest.raises(UserError, match="divergence"):
            parity.require(bad, "q8_0", "m")
    far = parity.Agreement(1, 1, 1.0, 1.0, 0.0, 0.05, 0.01)
    parity.require(far, "f16", "m")
    with pytest.raises(UserError, match="log-probability difference"):
        parity.require(far, "f32", "m")
    assert parity.record(far, "q8_0")["kl_allowed"] == 0.01
    assert "max_difference_allowed" not in parity.record(far, "q8_0")


@pytest.mark.skipif(not STORIES.is_dir(), reason="no ../shared/models/stories260k")
def test_stories260k(tmp_path: Path) -> None:
    """A trained model: reference figures in design/edge.md 1 (f32 KL 7e-7, Q8_0 KL 4e-4)."""
    assert num_equal(STORIES, tmp_path) > 300
    exact = agreement_of(STORIES, gguf(STORIES, tmp_path / "f32.gguf", quantize="f32"), 32)
    assert exact.greedy_agreement == 1.0
    assert exact.max_difference < 1e-4
    half = agreement_of(STORIES, gguf(STORIES, tmp_path / "f16.gguf", quantize="f16"), 32)
    assert half.kl < 2e-6
    eight = agreement_of(STORIES, gguf(STORIES, tmp_path / "q8.gguf", quantize="q8_0"), 32)
    assert 1e-5 < eight.kl < 2e-3
    assert eight.top1_agreement > 0.9


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox-20b", "qwen2.5", "mistral-7b-v0.1"])
@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="no ../shared/tokenizers")
def test_released_tokenizers(name: str, tmp_path: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SHARED / "tokenizers" / name / file, tmp_path / file)
    rows = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
    assert num_equal(with_random_network(tmp_path, rows), tmp_path) > 300


@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="no ../shared/tokenizers")
def test_blanks_eaten_by_control_tokens_are_caught(tmp_path: Path) -> None:
    """Phi-3's </s> takes the blanks after it; llama.cpp's does not: a template would differ."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SHARED / "tokenizers" / "phi-3-mini" / file, tmp_path / file)
    folder = with_random_network(tmp_path, 32064)
    with pytest.raises(UserError, match="tokenized otherwise"):
        num_equal(folder, tmp_path)
