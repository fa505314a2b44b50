"""Which tokens of two vocabularies are the same bytes; everything else is lumped on both sides.

Only byte-identical tokens are compared one by one. Edit-distance mappings are semantic noise
(Iraq -> Iran), and dropping what has no partner would bend the distribution: its mass is kept and
compared as one class against all student tokens that were not named.
"""

import numpy as np
import numpy.typing as npt

from smelt.fuse.pieces import Table


def _by_bytes(table: Table) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for token_id, piece in enumerate(table):
        if piece is not None:
            found.setdefault(piece, []).append(token_id)
    return found


def shared(
    pivot_table: Table,
    source_table: Table,
    *,
    pivot_eos: int | None = None,
    source_eos: int | None = None,
) -> npt.NDArray[np.int32]:
    """[source vocab] the pivot's id for each source id, -1 for those without a partner.

    One-to-one. When ids share bytes, equal ids meet first (two versions of one tokenizer), then the
    highest id of each side: byte-fallback pieces come before real pieces, and added tokens, which
    are matched before both, come last, so the highest is the one that encoding emits.
    End of text is matched by role when both eos ids are given; other special tokens never are.
    """
    pivot_ids = _by_bytes(pivot_table)
    mapping = np.full(len(source_table), -1, np.int32)
    for piece, sources in _by_bytes(source_table).items():
        pivots = pivot_ids.get(piece, [])
        same = set(sources) & set(pivots)
        for token_id in same:
            mapping[token_id] = token_id
        if pivots and sources[-1] not in same and pivots[-1] not in same:
            mapping[sources[-1]] = pivots[-1]
    if pivot_eos is not None and source_eos is not None:
        mapping[mapping == pivot_eos] = -1
        mapping[source_eos] = pivot_eos
    return mapping
