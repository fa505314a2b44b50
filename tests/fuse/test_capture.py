"""Capture and store: the kept numbers are the model's, and a killed capture loses nothing."""

import json
import os
import signal as signals
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smelt.core import digest
from smelt.core.errors import UserError
from smelt.fuse import capture as capturing
from smelt.fuse.pieces import piece_bytes
from smelt.fuse.store import LogitStore, model_digest, tokenizer_digest
from smelt.fuse.tokenized import Tokenized, tokenize
from tests.fuse.models import ROWS, pico, plain_log_probs, stored
from tests.fuse.trained import trained


@pytest.mark.parametrize("name", trained())
def test_every_kept_number_is_the_models(tmp_path: Path, name: str) -> None:
    model = pico(name)
    store = stored(tmp_path / "store", name, model)
    tokenizer, eos = trained()[name]
    rows = tokenize(ROWS, tokenizer, piece_bytes(tokenizer), eos)
    assert store.find(ROWS).tolist() == list(range(len(ROWS)))
    seen = 0
    for number, row in enumerate(rows):
        steps = slice(*store.offsets[number : number + 2])
        if not isinstance(row, Tokenized):
            assert store.meta["reasons"][store.reason[number]] == row.reason
            assert steps.start == steps.stop
            continue
        seen += row.num_steps
        assert np.array_equal(store.byte_end[steps], row.byte_ends)
        assert store.pending[number] == row.pending
        log_p = plain_log_probs(model, row.ids)[row.first : -1]
        top = log_p.topk(12, dim=1)
        assert np.array_equal(store.ids[steps], top.indices)
        assert np.allclose(store.logp[steps], top.values, atol=1e-5)
        assert np.allclose(store.rest[steps], 1 - top.values.exp().sum(1), atol=1e-6)
        # The realized token of step t is token t + 1.
        after = torch.from_numpy(row.ids[row.first + 1 :])
        assert np.allclose(store.nll[steps], -log_p.gather(1, after[:, None])[:, 0], atol=1e-5)
    assert store.meta["steps"] == seen == len(store.nll)
    assert store.meta["reasons"] == ["kept", "special_token"]


def test_masses_add_up_to_one_and_columns_keep_their_types(tmp_path: Path) -> None:
    for precision, tolerance in (("float32", 1e-6), ("float16", 2e-3)):
        store = stored(tmp_path / precision, "byte_bpe", precision=precision)
        mass = np.exp(store.logp.astype(np.float64)).sum(1) + store.rest
        assert np.abs(mass - 1).max() < tolerance
        assert store.logp.dtype == np.dtype(precision)
        assert (store.byte_end.dtype, store.ids.dtype) == (np.uint32, np.uint32)
        assert (np.diff(store.logp, axis=1) <= 0).all()


def test_top_k_beyond_the_vocabulary_keeps_everything(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", "byte_bpe", top_k=10_000)
    assert store.meta["top_k"] == store.ids.shape[1] == trained()["byte_bpe"][0].get_vocab_size()
    assert (store.rest == 0).all()


def test_head_columns_beyond_the_tokenizer_are_left_out(tmp_path: Path) -> None:
    narrow, wide = pico("byte_bpe"), pico("byte_bpe", spare=64)
    size = narrow.config.vocab_size
    with torch.no_grad():
        for small, large in zip(narrow.parameters(), wide.parameters(), strict=True):
            large.copy_(small) if large.shape == small.shape else large[:size].copy_(small)
        wide.lm_head.weight[size:] = 100.0
    one, other = (stored(tmp_path / n, "byte_bpe", m) for n, m in (("a", narrow), ("b", wide)))
    assert other.meta["vocab"] == size
    assert np.array_equal(one.ids, other.ids)
    assert np.allclose(one.rest, other.rest, atol=1e-6)


def test_batch_size_and_padding_do_not_matter(tmp_path: Path) -> None:
    one, other = (stored(tmp_path / str(n), "sentencepiece", batch_size=n) for n in (1, 7))
    assert np.array_equal(one.byte_end, other.byte_end)
    assert np.allclose(one.nll, other.nll, atol=1e-5)


def test_blocks_of_steps_are_joined_in_order(tmp_path: Path, monkeypatch: Any) -> None:
    whole = stored(tmp_path / "whole", "byte_bpe")
    monkeypatch.setattr(capturing, "STEPS_AT_ONCE", 3)
    parts = stored(tmp_path / "parts", "byte_bpe")
    assert np.array_equal(whole.ids, parts.ids)
    assert np.allclose(whole.nll, parts.nll, atol=1e-6)


def test_long_rows_are_dropped_by_name(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(capturing, "MAX_TOKENS", 10)
    store = stored(tmp_path / "store", "byte_bpe")
    assert store.meta["reasons"] == ["kept", "special_token", "too_long"]
    tokenizer, _ = trained()["byte_bpe"]
    for number, row in enumerate(ROWS):
        parts = [row["prompt"], row["text"][len(row["prompt"]) :]]
        long = sum(len(tokenizer.encode(part).ids) for part in parts) + 1 > 10
        assert (store.meta["reasons"][store.reason[number]] == "too_long") == long


def test_nothing_to_keep_is_a_store_too(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", "byte_bpe", rows=[ROWS[5]])
    assert store.meta["steps"] == len(store.nll) == 0


def test_the_training_mode_comes_back(tmp_path: Path) -> None:
    model = pico("byte_bpe").train()
    stored(tmp_path / "store", "byte_bpe", model)
    assert model.training


def test_refusals(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    stored(folder, "byte_bpe")
    LogitStore.open(folder, expect_model="m" * 64, expect_tokenizer="byte_bpe")
    with pytest.raises(UserError, match="another model"):
        LogitStore.open(folder, expect_model="n" * 64)
    with pytest.raises(UserError, match="another tokenizer"):
        LogitStore.open(folder, expect_tokenizer="digits")
    with pytest.raises(UserError, match="another capture"):
        stored(folder, "byte_bpe", top_k=3)
    with pytest.raises(UserError, match="no finished logit store"):
        LogitStore.open(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not ours"):
        stored(tmp_path / "other", "byte_bpe")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"
    for bad in ({"top_k": 0}, {"batch_size": 0}):
        with pytest.raises(UserError, match="at least 1"):
            stored(tmp_path / "new", "byte_bpe", **bad)
    np.save(folder / "nll.npy", np.zeros(3, np.float32))
    with pytest.raises(UserError, match=r"nll.npy: shape \(3,\)"):
        LogitStore.open(folder)
    (folder / "ids.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="missing or damaged"):
        LogitStore.open(folder)


def test_a_broken_model_is_named(tmp_path: Path) -> None:
    model = pico("byte_bpe")
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        stored(tmp_path / "store", "byte_bpe", model)


def test_a_head_that_is_too_narrow_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the width of the model's head"):
        stored(tmp_path / "store", "digits", pico("byte_bpe", spare=-100))


def test_digests_follow_the_content(tmp_path: Path) -> None:
    model = pico("byte_bpe")
    model.save_pretrained(tmp_path)
    trained()["byte_bpe"][0].save(str(tmp_path / "tokenizer.json"))
    before = model_digest(tmp_path), tokenizer_digest(tmp_path)
    assert before == (model_digest(tmp_path), tokenizer_digest(tmp_path))
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(tmp_path)
    assert model_digest(tmp_path) != before[0]
    assert tokenizer_digest(tmp_path) == before[1]
    with pytest.raises(UserError, match="no weight files"):
        model_digest(tmp_path / "nowhere")


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from smelt.fuse import capture
    from tests.fuse.models import stored

    calls = 0
    {patch}
    stored(Path(sys.argv[1]), "sentencepiece", batch_size=1)
"""
DURING_FORWARD = """
    real = capture._forward
    def forward(*given):
        global calls
        calls += 1
        if calls == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)
    capture._forward = forward
"""
BEFORE_META = """
    capture.write_meta = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
BEFORE_MARK = """
    real = capture._mark
    def mark(folder, key, batches):
        if batches == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        real(folder, key, batches)
    capture._mark = mark
"""


def test_killed_and_started_again_gives_the_same_bytes(tmp_path: Path) -> None:
    stored(tmp_path / "whole", "sentencepiece", batch_size=1)
    wanted = digest.files(tmp_path / "whole")
    assert "progress.json" not in wanted
    here = Path(__file__).resolve().parents[2]
    cases = [DURING_FORWARD.format(at=1), DURING_FORWARD.format(at=4), BEFORE_MARK, BEFORE_META]
    for number, patch in enumerate(cases):
        folder = tmp_path / str(number)
        code = textwrap.dedent(KILLED.format(patch=patch))
        done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=here, check=False)
        assert done.returncode == -signals.SIGKILL
        assert not (folder / "meta.json").exists()
        before = json.loads((folder / "progress.json").read_text())["batches"]
        assert before == [0, 3, 1, 6][number]
        stored(folder, "sentencepiece", batch_size=1)
        assert digest.files(folder) == wanted
    # Killed while the columns were laid out, or between meta.json and the end.
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "row.npy").write_bytes(b"half")
    (tmp_path / "0" / "progress.json").write_text("{}")
    for name in ("early", "0"):
        stored(tmp_path / name, "sentencepiece", batch_size=1)
        assert digest.files(tmp_path / name) == wanted


def test_a_capture_goes_on_instead_of_starting_over(tmp_path: Path, monkeypatch: Any) -> None:
    real, calls = capturing._forward, []

    def stopping(*given: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*given)

    monkeypatch.setattr(capturing, "_forward", stopping)
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path / "store", "byte_bpe", batch_size=1)
    calls.clear()
    monkeypatch.setattr(capturing, "_forward", lambda *given: (calls.append(1), real(*given))[1])
    stored(tmp_path / "store", "byte_bpe", batch_size=1)
    assert len(calls) == 6 - 2
    stored(tmp_path / "store", "byte_bpe", batch_size=1)
    assert len(calls) == 6 - 2  # a finished store is not captured again
    assert os.listdir(tmp_path) == ["store"]
