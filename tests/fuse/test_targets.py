"""Targets end to end: stores of pico models, through anchors, into losses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smelt.core.errors import UserError
from smelt.fuse.losses.lumped_jsd import lumped_jsd
from smelt.fuse.losses.lumped_kl import lumped_kl
from smelt.fuse.pieces import piece_bytes
from smelt.fuse.target import join
from smelt.fuse.targets import Targets, build_targets
from smelt.fuse.tokenized import Tokenized
from smelt.fuse.vocabulary import shared
from tests.fuse.models import ROWS, pico, plain_log_probs, source, stored
from tests.fuse.trained import trained


def flattened(model: Any) -> Any:
    """The model with a head of zeros: it knows nothing, so any other model beats it."""
    with torch.no_grad():
        model.lm_head.weight.zero_()
    return model


def forced(folder: Path, pivot: str, other: str, **options: Any) -> Targets:
    """Targets in which `other` gives the distributions: the pivot's evidence is made worse."""
    base = stored(folder / "pivot", pivot)
    object.__setattr__(base, "nll", np.asarray(base.nll) + 100)
    store = stored(folder / "source", other, pico(other, 1), **options)
    return build_targets(ROWS, source(base, pivot, "pivot"), [source(store, other, "source")])


@pytest.mark.parametrize("name", trained())
def test_the_same_model_gives_no_loss_and_no_gradient(tmp_path: Path, name: str) -> None:
    model = pico(name, 1)
    targets = forced(tmp_path, name, name)
    seen = 0
    for number, row in enumerate(targets.tokenized):
        if not isinstance(row, Tokenized):
            assert len(targets.of(number)) == 0
            continue
        target = targets.of(number)
        assert target.rows.tolist() == list(range(row.first, len(row.ids) - 1))
        seen += len(target)
        logits = plain_log_probs(model, row.ids).float().requires_grad_()
        for loss in (lumped_kl, lumped_jsd):
            value = loss(logits, target)
            (gradient,) = torch.autograd.grad(value, logits)
            assert float(value.detach()) < 1e-6
            assert gradient.abs().max() < 1e-5
    steps = targets.notes["alignment"]["steps"]
    assert steps["source"] == {"anchors": seen, "unaligned": 0}
    assert targets.notes["chosen"] == {"pivot": 0, "source": len(ROWS) - 1}


@pytest.mark.parametrize(
    ("pivot", "other"),
    [(a, b) for a in trained() for b in trained() if a != b],
)
def test_a_target_is_the_sources_next_token_after_the_same_bytes(
    tmp_path: Path, pivot: str, other: str
) -> None:
    """Everything is recomputed here from texts: ids, masses and the byte where they belong."""
    targets = forced(tmp_path, pivot, other)
    model, (tokenizer, _) = pico(other, 1), trained()[other]
    tables = [piece_bytes(trained()[name][0]) for name in (pivot, other)]
    mapping = shared(*tables, pivot_eos=trained()[pivot][1], source_eos=trained()[other][1])
    anchored = 0
    for number, row in enumerate(targets.tokenized):
        target = targets.of(number)
        anchored += len(target)
        if not isinstance(row, Tokenized):
            continue
        prompt, text = ROWS[number]["prompt"], ROWS[number]["text"]
        parts = [part for part in (prompt, text[len(prompt) :]) if part]
        ids = [token for part in parts for token in tokenizer.encode(part).ids]
        log_p = plain_log_probs(model, ids)
        read = b"".join(tables[0][i] or b"" for i in row.ids[:-1])
        for entry, step in enumerate(target.rows.tolist()):
            mine = b"".join(tables[0][i] or b"" for i in row.ids[: step + 1])
            assert read.startswith(mine)
            text_read = text.encode()[: row.byte_ends[step - row.first]]
            # The source's step: the last prefix of its tokens with these bytes of text.
            spaces = b" " if other == "sentencepiece" else b""
            wanted = [text_read, spaces + text_read]
            if prompt and other == "sentencepiece" and len(text_read) >= len(prompt.encode()):
                cut = len(prompt.encode())
                wanted.append(b" " + text_read[:cut] + b" " + text_read[cut:])
            ends = [b"".join(tables[1][i] or b"" for i in ids[: j + 1]) for j in range(len(ids))]
            j = max(n for n, prefix in enumerate(ends) if prefix in wanted)
            p = log_p[j].exp()
            top = p.topk(12)
            assert target.ids[entry].tolist() == mapping[top.indices.numpy()].tolist()
            assert torch.allclose(target.logp[entry].double().exp(), top.values, atol=1e-6)
            total = float(target.logp[entry].exp().sum() + target.rest[entry])
            assert total == pytest.approx(1, abs=1e-6)
    steps = targets.notes["alignment"]["steps"]["source"]
    assert anchored == steps["anchors"]
    assert anchored > 20
    student_steps = targets.notes["alignment"]["student_steps"]
    assert steps["anchors"] + steps["unaligned"] == student_steps


def test_the_target_of_step_t_is_about_token_t_plus_1(tmp_path: Path) -> None:
    """A source that is certain of the next token must put its mass on ids[t + 1], never ids[t]."""
    name = "byte_bpe"
    base = stored(tmp_path / "pivot", name)
    store = stored(tmp_path / "source", name, pico(name, 1), top_k=1)
    targets = build_targets(ROWS, source(base, name, "pivot"), [source(store, name, "source")])
    ids, logp = np.array(store.ids), np.array(store.logp)
    nll = np.asarray(store.nll) * 0
    for number, row in enumerate(targets.tokenized):
        if isinstance(row, Tokenized):
            ids[slice(*store.offsets[number : number + 2]), 0] = row.ids[row.first + 1 :]
    for field, value in (("ids", ids), ("logp", logp * 0), ("nll", nll), ("rest", nll)):
        object.__setattr__(store, field, value)
    targets = build_targets(ROWS, source(base, name, "pivot"), [source(store, name, "source")])
    for number, row in enumerate(targets.tokenized):
        target = targets.of(number)
        if isinstance(row, Tokenized):
            assert target.ids[:, 0].tolist() == row.ids[target.rows.numpy() + 1].tolist()
            assert target.ids[-1, 0] == row.ids[-1]  # eos, at the last byte


@pytest.mark.parametrize("pivot", ["byte_bpe", "sentencepiece"])
def test_a_dummy_space_keeps_two_steps_apart(tmp_path: Path, pivot: str) -> None:
    """After "2+2=" SentencePiece expects " the" where byte-level BPE expects "the"."""
    other, rows = "sentencepiece", [{"text": "2+2=the", "prompt": "2+2="}]
    assert trained()[other][0].encode("the").tokens == ["\u2581the"]
    base = stored(tmp_path / "pivot", pivot, rows=rows)
    store = stored(tmp_path / "source", other, rows=rows)
    models = source(base, pivot, "pivot"), [source(store, other, "source")]
    targets = build_targets(rows, *models, rule="avg_ce")
    row, anchors = targets.tokenized[0], targets.aligned[1].student.tolist()
    assert isinstance(row, Tokenized)
    assert (row.first in anchors) == (pivot == other)
    assert len(row.ids) - 2 in anchors  # eos


def test_evidence_is_about_the_bytes_that_were_predicted(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", "digits")
    samples = store.find(ROWS)
    found = source(store, "digits", "pivot").evidence(samples)
    for number, row in enumerate(ROWS):
        if number == 5:  # spells a special token
            assert np.isnan(found.nll[number])
            continue
        steps = slice(*store.offsets[number : number + 2])
        assert found.nll[number] == pytest.approx(store.nll[steps].astype(float).sum())
        assert found.tokens[number] == steps.stop - steps.start
        if row["prompt"]:
            response = row["text"].removeprefix(row["prompt"])
            assert found.num_bytes[number] == len(response.encode())
    assert found.num_bytes[4] == 0  # one token: only eos was predicted


def test_the_pivot_teaches_the_rows_that_it_predicts_best(tmp_path: Path) -> None:
    base = stored(tmp_path / "pivot", "digits")
    blind = stored(tmp_path / "blind", "byte_bpe", flattened(pico("byte_bpe")))
    object.__setattr__(base, "nll", np.asarray(base.nll) * 0)
    targets = build_targets(
        ROWS, source(base, "digits", "pivot"), [source(blind, "byte_bpe", "blind")]
    )
    for number, row in enumerate(targets.tokenized):
        target = targets.of(number)
        steps = list(range(row.first, len(row.ids) - 1)) if isinstance(row, Tokenized) else []
        assert target.rows.tolist() == steps
        assert (target.ids >= 0).all()
        assert (target.weight == 1).all()
    counts = targets.notes["alignment"]
    assert counts["steps"] == {
        "pivot": {"anchors": counts["student_steps"], "unaligned": 0, "no_model": 0},
        "blind": {"anchors": 0, "unaligned": 0},
    }
    assert counts["rows"]["blind"] == {"kept": len(ROWS) - 1, "special_token": 1}
    assert targets.notes["chosen"] == {"pivot": len(ROWS) - 1, "blind": 0}


def test_avg_ce_weights_add_up_to_one_at_every_step(tmp_path: Path) -> None:
    names = ["digits", "byte_bpe", "sentencepiece"]
    stores = [stored(tmp_path / n, n, pico(n, seed)) for seed, n in enumerate(names)]
    models = [source(store, n, n) for store, n in zip(stores, names, strict=True)]
    targets = build_targets(ROWS, models[0], models[1:], rule="avg_ce")
    for number, row in enumerate(targets.tokenized):
        if not isinstance(row, Tokenized):
            continue
        target, weights = targets.of(number), targets.combined.weights[number]
        total = torch.bincount(target.rows, weights=target.weight)[row.first :]
        # The pivot is anchored everywhere, so every step has a distribution.
        assert torch.allclose(total, torch.ones(row.num_steps, dtype=total.dtype), atol=1e-6)
        last = target.weight[target.rows == len(row.ids) - 2]
        assert last.tolist() == pytest.approx(weights.tolist(), abs=1e-6)
    steps = targets.notes["alignment"]["steps"]
    assert steps["digits"] == {
        "anchors": targets.notes["alignment"]["student_steps"],
        "unaligned": 0,
        "no_model": 0,
    }
    assert steps["sentencepiece"]["unaligned"] > 0


def test_rows_of_a_batch_find_their_logits(tmp_path: Path) -> None:
    targets = forced(tmp_path, "byte_bpe", "digits")
    time, vocab = 64, trained()["byte_bpe"][0].get_vocab_size()
    batch = [0, 2, 5, 3]
    logits = torch.randn(len(batch), time, vocab, generator=torch.Generator().manual_seed(0))
    both = join([targets.of(i) for i in batch], [b * time for b in range(len(batch))])
    whole = float(lumped_kl(logits.flatten(0, 1), both))
    singles = [(targets.of(i), logits[b]) for b, i in enumerate(batch) if len(targets.of(i))]
    total = sum(float(lumped_kl(rows, target)) * len(target) for target, rows in singles)
    assert whole == pytest.approx(total / len(both), rel=1e-5)


def test_order_and_subset_of_rows_are_free(tmp_path: Path) -> None:
    base = stored(tmp_path / "pivot", "digits")
    object.__setattr__(base, "nll", np.asarray(base.nll) + 100)
    store = stored(tmp_path / "source", "byte_bpe")
    models = source(base, "digits", "pivot"), [source(store, "byte_bpe", "source")]
    whole, some = build_targets(ROWS, *models), build_targets([ROWS[3], ROWS[1]], *models)
    for here, there in ((0, 3), (1, 1)):
        one, other = some.of(here), whole.of(there)
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.logp, other.logp)
        assert torch.equal(one.ids, other.ids)


def test_half_precision_stores_add_up_to_one_again(tmp_path: Path) -> None:
    targets = forced(tmp_path, "byte_bpe", "digits", precision="float16")
    for number in range(len(ROWS)):
        target = targets.of(number)
        total = target.logp.exp().sum(1) + target.rest
        assert torch.allclose(total, torch.ones(len(target)), atol=1e-6)


def test_refusals(tmp_path: Path) -> None:
    base = stored(tmp_path / "pivot", "digits")
    pivot = source(base, "digits", "pivot")
    with pytest.raises(UserError, match="row 1 is not in it"):
        build_targets([ROWS[0], {"text": "new", "prompt": ""}], pivot, [])
    with pytest.raises(UserError, match="different name"):
        build_targets(ROWS, pivot, [pivot])
    wide = replace(base, meta={**base.meta, "vocab": 10_000})
    with pytest.raises(UserError, match="beyond the tokenizer"):
        build_targets(ROWS, pivot, [source(wide, "digits", "wrong")])
    with pytest.raises(UserError, match="eos 0"):
        build_targets(ROWS, source(base, "sentencepiece", "pivot"), [])
    with pytest.raises(UserError, match="no such plug-in"):
        build_targets(ROWS, pivot, [], alignment="byte_anchor")


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(st.text(min_size=2, max_size=20), min_size=1, max_size=3))
def test_any_text_gives_targets_that_add_up(tmp_path_factory: Any, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    rows = [{"text": text, "prompt": text[:1]} for text in dict.fromkeys(texts)]
    names = ("byte_bpe", "sentencepiece")
    pivot, other = (source(stored(folder / n, n, rows=rows), n, n) for n in names)
    targets = build_targets(rows, pivot, [other], rule="avg_ce")
    for number, row in enumerate(targets.tokenized):
        target = targets.of(number)
        mass = target.logp.exp().sum(1) + target.rest
        assert torch.allclose(mass, torch.ones(len(target)), atol=1e-6)
        if isinstance(row, Tokenized) and len(target):
            assert target.rows.min() >= row.first
            assert target.rows.max() == len(row.ids) - 2
