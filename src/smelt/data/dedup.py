"""Duplicates: exact ones by normalized content, near ones by MinHash signatures in bands.

Near-duplicates are compared by the Jaccard similarity of their word 5-grams, estimated from
MinHash signatures (Broder 1997). A document goes when an *earlier kept* one is similar enough:
chains of pairwise similar documents are not wiped out as one cluster. Signatures come from rensa
(the extra `data`) or, without it, from NumPy: other hash functions, so the estimates near the
threshold differ, and the run record says which was used.

Pairs are left out unless asked for: short templated rows (`3+4*2=`, `3+4*1=`) share most of their
5-grams and still are different problems; for them the exact key is the right one.
"""

import hashlib
import importlib.metadata
import importlib.util
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from smelt.core import progress
from smelt.core.seed import seed_for
from smelt.data.document import Document, normalize

SHINGLE_WORDS = 5
Signature = NDArray[np.uint32]


def content_key(doc: Document) -> bytes:
    """16 bytes that are equal for documents of equal normalized prompt and text."""
    content = f"{normalize(doc.prompt)}\x1f{normalize(doc.text)}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()


def backend() -> str:
    """What computes the signatures here: `rensa VERSION` or `numpy`."""
    if importlib.util.find_spec("rensa") is None:
        return "numpy"
    return f"rensa {importlib.metadata.version('rensa')}"


def shingles(text: str) -> list[str]:
    """The distinct word 5-grams of the normalized text, sorted (one, if it is shorter)."""
    words = normalize(text).split()
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    return sorted({" ".join(words[start : start + SHINGLE_WORDS]) for start in range(count)})


def numpy_signature(items: Sequence[str], permutations: int) -> Signature:
    """MinHash signature by multiply-shift hashing (Dietzfelbinger 1997) of 64-bit item hashes."""
    draw = np.random.default_rng(seed_for(0, "minhash", str(permutations)))
    odd = draw.integers(0, 2**63, size=permutations, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    shift = draw.integers(0, 2**63, size=permutations, dtype=np.uint64)
    hashed = b"".join(
        hashlib.blake2b(item.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for item in items
    )
    values = np.frombuffer(hashed, dtype="<u8")
    lowest = np.full(permutations, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(values), 4096):  # bounds the table at 4096 x permutations
        table = values[start : start + 4096, None] * odd + shift
        lowest = np.minimum(lowest, (table >> np.uint64(32)).astype(np.uint32).min(axis=0))
    return lowest


def rensa_signature(items: Sequence[str], permutations: int) -> Signature:
    """MinHash signature by rensa (compiled)."""
    import rensa

    sketch = rensa.RMinHash(num_perm=permutations, seed=42)
    sketch.update([item.encode("utf-8", "replace").decode() for item in items])
    return np.asarray(sketch.digest(), dtype=np.uint32)


def bands_for(permutations: int, threshold: float) -> tuple[int, int]:
    """Bands and rows per band: the fewest candidates that still reach nearly every similar pair.

    A pair of similarity s shares a band with probability 1 - (1 - s^rows)^bands; the widest bands
    are taken for which that is at least 0.99 at the threshold.
    """
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= 0.99:
            return bands, rows
    return permutations, 1


def near_copies(
    texts: Sequence[str],
    *,
    threshold: float,
    permutations: int,
    signature: Callable[[Sequence[str], int], Signature] | None = None,
) -> list[int]:
    """Places of the texts that are near-duplicates of an earlier kept text, ascending."""
    if signature is None:
        signature = numpy_signature if backend() == "numpy" else rensa_signature
    bands, rows = bands_for(permutations, threshold)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    signatures: dict[int, Signature] = {}
    copies = []
    for place, text in enumerate(progress.track(texts, "data: near-duplicates", len(texts))):
        own = signature(shingles(text), permutations)
        keys = [(band, own[band * rows : (band + 1) * rows].tobytes()) for band in range(bands)]
        candidates = sorted({other for key in keys for other in buckets.get(key, ())})
        if any(np.mean(own == signatures[other]) >= threshold for other in candidates):
            copies.append(place)
            continue
        signatures[place] = own
        for key in keys:
            buckets[key].append(place)
    return copies
