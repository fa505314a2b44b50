"""Embedding rows under another vocabulary, block by block: nothing holds a whole embedding.

A `RowMap` says for one model and one vocabulary tensor (embedding, head, bias of the head) where
each new row comes from. Four cases, told apart by data alone:

- `rows[i] >= 0`: the model's own row of the same token;
- `i` in `fills.row`: the sum of weight x row over one or more models;
- `i` in `averaged`: a row without a token (padding), the mean of all rows that have one;
- else zero.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from smelt.checkpoint import layout
from smelt.core.errors import UserError

# read(model, rows): these rows of a model's tensor, in this order, as float (len(rows), columns).
ReadRows = Callable[[str, Int64[np.ndarray, " n"]], Float[np.ndarray, "n columns"]]
MEAN_BLOCK = 4096

# Tensors by token that `layout.block_of` calls "other": T5, BERT's head, Gemma 3n.
_BY_TOKEN = ("shared", "predictions", "embed_tokens_per_layer")
_BY_POSITION = ("wpe", "position_embeddings", "embed_positions")


@dataclass(frozen=True)
class Fills:
    """Rows put together from models: new row `row` += `weight` x row `source` of `model`.

    Four arrays of one length, sorted by row; `model` indexes `RowMap.models`. A model stands at
    most once for a row.
    """

    row: Int64[np.ndarray, " fills"]
    model: Int64[np.ndarray, " fills"]
    source: Int64[np.ndarray, " fills"]
    weight: Float[np.ndarray, " fills"]


@dataclass(frozen=True)
class RowMap:
    """Where the rows of one model's tensor come from under the new vocabulary."""

    model: str
    models: tuple[str, ...]
    """What `fills.model` indexes."""
    rows: Int64[np.ndarray, " size"]
    """Per new row the model's own row, or -1."""
    fills: Fills
    averaged: Int64[np.ndarray, " averaged"]
    """New rows that get the mean of all others, sorted."""

    @property
    def size(self) -> int:
        """Number of new rows."""
        return len(self.rows)

    def unchanged(self, own_rows: int) -> bool:
        """Whether the new tensor is the model's own, which has `own_rows` rows."""
        return len(self.rows) == own_rows and bool((self.rows == np.arange(own_rows)).all())


def read_rows(
    row_map: RowMap,
    start: int,
    stop: int,
    columns: int,
    read: ReadRows,
    mean: Float[np.ndarray, " columns"] | None = None,
) -> Float[np.ndarray, "rows columns"]:
    """Rows [start, stop) of the tensor under the new vocabulary, in the type that `read` gives.

    mean: `mean_row` of the same tensor, needed when `row_map.averaged` is not empty. The result
    does not depend on where blocks begin and end.
    """
    own = row_map.rows[start:stop]
    present = np.flatnonzero(own >= 0)
    block = read(row_map.model, own[present])
    if len(present) == len(own):
        return block
    result = np.zeros((len(own), columns), block.dtype)
    result[present] = block
    fills = row_map.fills
    low, high = np.searchsorted(fills.row, [start, stop])
    for index in np.unique(fills.model[low:high]):
        chosen = low + np.flatnonzero(fills.model[low:high] == index)
        part = read(row_map.models[index], fills.source[chosen])
        weight = fills.weight[chosen, None].astype(part.dtype)
        result[fills.row[chosen] - start] += weight * part
    low, high = np.searchsorted(row_map.averaged, [start, stop])
    if high > low:
        assert mean is not None, "rows without a token need the mean row"
        result[row_map.averaged[low:high] - start] = mean
    return result


def mean_row(row_map: RowMap, columns: int, read: ReadRows) -> Float[np.ndarray, " columns"]:
    """Mean of all rows that have a token, summed in float64, in one pass over the tensor."""
    total = np.zeros(columns)
    for start in range(0, row_map.size, MEAN_BLOCK):
        stop = min(start + MEAN_BLOCK, row_map.size)
        block = read_rows(row_map, start, stop, columns, read, np.zeros(columns))
        total += block.sum(axis=0, dtype=np.float64)  # rows without a token count as zero here
    return total / max(row_map.size - len(row_map.averaged), 1)


def embedding_rows(shapes: Mapping[str, tuple[int, ...]], where: object) -> int:
    """Rows of a checkpoint's token embedding. Raises UserError when it has none."""
    tokens = {name: one for name, one in shapes.items() if not _by_position(name)}
    name = layout.head_and_embedding(tokens)[1]
    name = name or next((one for one in tokens if "shared" in one.split(".")), None)
    if name is None:
        raise UserError(where, "no token embedding in it", "a language model")
    return shapes[name][0]


def vocabulary_tensors(shapes: Mapping[str, tuple[int, ...]], where: object) -> set[str]:
    """Names of the tensors with one row per token, always along axis 0: embeddings, head, its bias.

    shapes: all tensors of one checkpoint. Call it only when rows move. Raises UserError for a
    tensor that looks as if it went by tokens and cannot be moved safely.
    """
    size = embedding_rows(shapes, where)
    found = set()
    for name, shape in shapes.items():
        block, parts = layout.block_of(name), name.split(".")
        if _by_position(name) or layout.layer_of(name) is not None:
            continue
        if block in ("embedding", "head") or any(part in _BY_TOKEN for part in parts):
            if block == "other" and shape[:1] != (size,) and "predictions" in parts:
                continue  # BERT's prediction layer before the vocabulary
            if shape[:1] != (size,):
                rows = f"shape {list(shape)}"
                expected = f"{size} rows, as in the token embedding"
                raise UserError(where, f"tensor '{name}' has {rows}", expected)
            found.add(name)
        elif block == "other" and size in shape:
            what = f"tensor '{name}' of shape {list(shape)} has an axis as long as the vocabulary"
            raise UserError(
                where, f"{what}, and its meaning is unknown",
                "models with the vocabulary in embedding and head only",
                "merge without a tokenizer section",
            )  # fmt: skip
    return found


def _by_position(name: str) -> bool:
    return any(part in _BY_POSITION for part in name.split("."))
