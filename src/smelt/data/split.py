"""Train, fitness and test: disjoint by the content of the prompt, stable when rows are added."""

import hashlib
from collections.abc import Sequence

from smelt.data.document import Document, split_key

SPLITS = ("train", "fitness", "test")


def share_of(key: str) -> float:
    """A number in [0, 1) from the content alone: no seed moves a row to another split."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def assign(
    docs: Sequence[Document], fixed: Sequence[str | None], *, fitness: float, test: float
) -> list[str]:
    """The split of each document.

    fixed: the split that its source demands, or None. Documents with one prompt share one split:
    a demanded split takes the others along (the first demand wins).
    """
    demanded: dict[str, str] = {}
    keys = [split_key(doc) for doc in docs]
    for key, split in zip(keys, fixed, strict=True):
        if split is not None:
            demanded.setdefault(key, split)
    chosen = []
    for key in keys:
        share = share_of(key)
        by_hash = "test" if share < test else "fitness" if share < test + fitness else "train"
        chosen.append(demanded.get(key, by_hash))
    return chosen
