"""Duplicates: both signature backends find the same made near copies, and only those."""

import random
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from smelt.data import dedup
from smelt.data.document import make

BACKENDS = [dedup.numpy_signature, dedup.rensa_signature]
Backend = Callable[[Sequence[str], int], dedup.Signature]


def made_texts() -> tuple[list[str], set[int]]:
    """100 unrelated texts, then 30 copies with one of 100 words changed (Jaccard about 0.9)."""
    draw = random.Random(0)
    words = [f"w{i}" for i in range(2000)]
    texts = [" ".join(draw.choices(words, k=100)) for _ in range(100)]
    for i in range(30):
        copy = texts[i].split()
        copy[draw.randrange(100)] = "changed"
        texts.append(" ".join(copy))
    return texts, set(range(100, 130))


def test_exact_key_ignores_case_space_and_forms() -> None:
    a = make("One  line\nﬁne", source="s", domain="d")
    b = make("one line fine ", source="t", domain="e")
    assert dedup.content_key(a) == dedup.content_key(b)
    # The border between prompt and response is content.
    c, d = (make("ab", prompt=p, source="s", domain="d") for p in ("", "a"))
    assert dedup.content_key(c) != dedup.content_key(d)


@pytest.mark.parametrize("signature", BACKENDS)
def test_near_copies_are_found_and_the_first_stays(signature: Backend) -> None:
    texts, copies = made_texts()
    found = dedup.near_copies(texts, threshold=0.8, permutations=112, signature=signature)
    assert set(found) <= copies
    assert len(found) >= 28
    assert found == dedup.near_copies(texts, threshold=0.8, permutations=112, signature=signature)


@pytest.mark.parametrize("signature", BACKENDS)
def test_signatures_estimate_the_jaccard_similarity(signature: Backend) -> None:
    left, right = [f"a{i}" for i in range(60)], [f"a{i}" for i in range(20, 80)]
    same = np.mean(signature(left, 1024) == signature(right, 1024))
    assert abs(float(same) - 40 / 80) < 0.06
    assert (signature(left, 64) == signature(left[::-1], 64)).all()
    assert signature(left, 64).dtype == np.uint32
    assert signature(left, 64).shape == (64,)


def test_numpy_signature_by_hand() -> None:
    """The minimum over items of the high half of (odd * hash + shift) mod 2^64."""
    import hashlib

    from smelt.core.seed import seed_for

    draw = np.random.default_rng(seed_for(0, "minhash", "16"))
    odd = [int(x) * 2 % 2**64 + 1 for x in draw.integers(0, 2**63, size=16, dtype=np.uint64)]
    shift = [int(x) for x in draw.integers(0, 2**63, size=16, dtype=np.uint64)]
    items = ["a b", "c", "d e f"]
    values = [int.from_bytes(hashlib.blake2b(i.encode(), digest_size=8).digest(), "little")
              for i in items]  # fmt: skip
    wanted = [min((a * v + b) % 2**64 >> 32 for v in values) for a, b in zip(odd, shift)]  # noqa: B905
    assert dedup.numpy_signature(items, 16).tolist() == wanted


def test_chains_of_similar_texts_are_not_wiped_out() -> None:
    words = [f"w{i}" for i in range(140)]
    texts = [" ".join(words[start : start + 100]) for start in (0, 5, 40)]
    # 0 and 5 are similar; 40 is like neither.
    assert dedup.near_copies(texts, threshold=0.8, permutations=256) == [1]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_bands_catch_pairs_at_the_threshold(threshold: float) -> None:
    bands, rows = dedup.bands_for(112, threshold)
    assert bands * rows <= 112
    assert 1 - (1 - threshold**rows) ** bands >= 0.99


def test_numpy_serves_where_rensa_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "rensa", None)
    assert dedup.backend() == "numpy"
    assert dedup.near_copies(["a b c d e f"] * 2, threshold=0.8, permutations=16) == [1]


def test_short_texts_are_one_shingle() -> None:
    assert dedup.shingles("A  b") == ["a b"]
    assert dedup.shingles("a b c d e f") == ["a b c d e", "b c d e f"]
    assert dedup.shingles("") == [""]
