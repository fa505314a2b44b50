"""Pair the steps that end on the same byte of the text: exact, one merge, no edit distance.

Both tokenizations cover the same bytes, so M = {(i, j): e_i = f_j} needs no dynamic programming.
The samples of a batch are laid end to end on one number line and merged by one searchsorted.
"""

import numpy as np
import numpy.typing as npt

from smelt.fuse.alignment import Anchors, Places


def byte_anchors(pivot: Places, source: Places) -> Anchors:
    """Anchors of the same samples in two tokenizers, strictly increasing on both sides.

    Steps on the same place (zero-width tokens) are paired from the last one backwards, so that the
    same tokenizer gives the identity and the steps that expect real text meet.
    Raises ValueError when the numbers of samples differ or places decrease within a sample.
    """
    if len(pivot.offsets) != len(source.offsets):
        raise ValueError("pivot and source must hold the same samples")
    stride = 1 + max(pivot.values.max(initial=0), source.values.max(initial=0))
    low = min(pivot.values.min(initial=0), source.values.min(initial=0))
    lines = [side.samples * (stride - low) + side.values - low for side in (pivot, source)]
    if any((np.diff(line) < 0).any() for line in lines):
        raise ValueError("places must not decrease within a sample")
    ranks = [_rank_from_last(line) for line in lines]
    width = 1 + max(rank.max(initial=0) for rank in ranks)
    keys = [line * width + (width - 1 - rank) for line, rank in zip(lines, ranks, strict=True)]
    if not len(keys[1]):
        return Anchors(np.empty(0, np.int64), np.empty(0, np.int64))
    found = np.searchsorted(keys[1], keys[0])
    met = keys[1][np.minimum(found, len(keys[1]) - 1)] == keys[0]
    return Anchors(np.flatnonzero(met), found[met])


def _rank_from_last(line: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many steps on the same place follow each step."""
    if not len(line) or (np.diff(line) > 0).all():
        return np.zeros(len(line), np.int64)
    return np.searchsorted(line, line, side="right") - 1 - np.arange(len(line))
