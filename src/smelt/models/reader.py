"""A network that reads tokens step by step: its cache copied to rows, grown and cut down."""

import inspect
from copy import deepcopy
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from smelt.core.errors import UserError
from smelt.models.load import context_length

# Memory for keys and values. Fixed, never what happens to be free: batches decide the last bits.
CACHE_BYTES = {"cpu": 1 << 30}
ACCELERATOR_BYTES = 8 << 30
# Tokens for which a growing cache makes room at once.
ROOM = 128


class Reader:
    """What is known of a network by its kind, and single steps through it.

    plain: its cache holds keys and values of tokens only, and positions can be given, so that
    padding and shared beginnings are possible; window: of sliding attention, in tokens; last: the
    last position there is (padding must not ask for one beyond, where positions are learned).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Reads one token. Raises UserError when the network keeps no cache."""
        self.model = model
        self.device = model.device
        self.last = context_length(model) - 1
        taken = inspect.signature(model.forward).parameters
        self._positions = "position_ids" in taken
        self._last_only = "logits_to_keep" in taken
        with torch.inference_mode():
            probe = torch.zeros((1, 1), dtype=torch.long, device=self.device)
            out = cast(Any, model)(input_ids=probe, use_cache=True)
        cache = out.get("past_key_values")
        if cache is None or not isinstance(getattr(cache, "layers", None), list):
            kind = type(model).__name__
            raise UserError(kind, "keeps no keys and values of tokens", "another backend")
        kinds = {type(layer) for layer in cache.layers}
        self.plain = self._positions and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
        windows = [
            int(layer.sliding_window)
            for layer in cache.layers
            if isinstance(layer, DynamicSlidingWindowLayer)
        ]
        self.window = min(windows, default=None)
        self._token_bytes = sum(
            tensor.nbytes
            for layer in cache.layers
            for tensor in vars(layer).values()
            if isinstance(tensor, Tensor) and tensor.ndim > 1
        )

    def fits(self, rows: int, tokens: int) -> bool:
        """Does the cache of so many rows of so many tokens stay within its share of memory?

        Growing copies a layer, and a row that leaves copies all: hence twice.
        """
        most = CACHE_BYTES.get(self.device.type, ACCELERATOR_BYTES)
        return 2 * rows * tokens * self._token_bytes <= most

    def shares(self, width: int) -> bool:
        """May rows of so many tokens share a beginning? Padding between it and the rest would lie
        inside a window of attention, which counts places and not tokens."""
        return self.plain and (self.window is None or width <= self.window)

    def begin(self, ids: list[int]) -> Any:
        """The cache after one row of tokens."""
        tokens = torch.tensor([ids], device=self.device)
        _, cache = self.step(tokens, None, None, torch.arange(len(ids), device=self.device)[None])
        return cache

    def step(
        self,
        ids: Int[Tensor, "rows time"],
        cache: Any,
        mask: Int[Tensor, "rows all_time"] | None,
        positions: Int[Tensor, "rows time"],
        *,
        every: bool = False,
    ) -> tuple[Float[Tensor, "rows kept vocab"], Any]:
        """Read tokens after those of the cache (which it then holds too, in place).

        mask: 1 where a place of cache or ids is a token; kept: 1, or every place that was read.
        Returns logits in float32 and the cache.
        """
        more: dict[str, Any] = {"position_ids": positions} if self._positions else {}
        if self._last_only and not every:
            more["logits_to_keep"] = 1
        if mask is not None:
            more["attention_mask"] = mask
        out = cast(Any, self.model)(input_ids=ids, past_key_values=cache, use_cache=True, **more)
        logits = out.logits if every else out.logits[:, -1:]
        return logits.float(), out.past_key_values


def spread(cache: Any, rows: list[int], *, keep: bool = False) -> Any:
    """A cache of these rows of a cache, in place unless `keep`; rows may repeat or be left out."""
    cache = deepcopy(cache) if keep else cache
    cache.reorder_cache(torch.tensor(rows))
    return cache


class _Roomy(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values with room for tokens to come: the library's own layer copies everything at
    every token."""

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert layer.keys is not None
        assert layer.values is not None
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self._size = layer.keys.shape[-2]
        self._both = [_longer(layer.keys, ROOM), _longer(layer.values, ROOM)]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (part[..., : self._size, :] for part in self._both)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Add tokens; returns all keys and values."""
        stop = self._size + key_states.shape[-2]
        if stop > self._both[0].shape[-2]:
            self._both = [_longer(part, stop - self._size + ROOM) for part in self._both]
        for part, states in zip(self._both, (key_states, value_states), strict=True):
            part[..., self._size : stop, :] = states
        self._size = stop
        self._show()
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows."""
        self._both = [part.index_select(0, beam_idx.to(part.device)) for part in self._both]
        self._show()


def _longer(tensor: Tensor, more: int) -> Tensor:
    """A copy with room for more tokens at the end."""
    *front, size, width = tensor.shape
    grown = tensor.new_empty((*front, size + more, width))
    grown[..., :size, :] = tensor
    return grown


def roomy(cache: Any) -> Any:
    """The cache, in place, ready to grow token by token."""
    cache.layers = [
        _Roomy(layer) if type(layer) is DynamicLayer and layer.get_seq_length() else layer
        for layer in cache.layers
    ]
    return cache


def left_padded(
    rows: list[list[int]], device: torch.device
) -> tuple[Int[Tensor, "rows time"], Int[Tensor, "rows time"]]:
    """Rows of tokens flush right, and 1 where a place is a token."""
    whole = [torch.tensor(row, dtype=torch.long) for row in rows]
    ids = pad_sequence(whole, batch_first=True, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in whole], True, padding_side="left")
    return ids.to(device), mask.to(device)


class Shared:
    """Batches of rows read up to their ends; the beginning that a batch shares is read once, and
    not again when the next batch has the same."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._ids: list[int] = []
        self._cache: Any = None

    def read(
        self, rows: list[list[int]], shared: int
    ) -> tuple[Float[Tensor, "rows vocab"], Any, Int[Tensor, "rows time"]]:
        """Logits (float32) after the last token of each row, the cache, and the mask of its places.

        shared: first tokens that all rows have in common.
        """
        cache: Any = None
        if shared:
            head = rows[0][:shared]
            if head != self._ids:
                self._ids, self._cache = head, self.reader.begin(head)
            cache = spread(self._cache, [0] * len(rows), keep=True)
        ids, mask = left_padded([row[shared:] for row in rows], self.reader.device)
        positions = (shared + mask.cumsum(1) - 1).clamp(min=0)
        mask = torch.cat([mask.new_ones((len(rows), shared)), mask], dim=1)
        logits, cache = self.reader.step(ids, cache, mask, positions)
        return logits[:, -1], cache, mask
