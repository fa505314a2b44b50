"""Capture: run a model over its own tokenization of the rows and keep what it expects at each step.

Only steps whose next token is in the response, or is eos, are kept. The columns are laid out before
the first batch, every batch writes its own cells, and a small file counts the finished batches: a
killed capture goes on after the last of them and ends with the same bytes.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from smelt import __version__
from smelt.core import digest
from smelt.core.errors import UserError
from smelt.core.progress import Bar
from smelt.fuse.pieces import Dropped, piece_bytes
from smelt.fuse.store import FORMAT, META, LogitStore, Precision, step_columns, write_meta
from smelt.fuse.tokenized import Row, Tokenized, row_digest, tokenize

PROGRESS = "progress.json"
MAX_TOKENS = 2048  # a batch's logits stand in memory whole
STEPS_AT_ONCE = 512  # bounds the fp32 copies of [steps, vocab]


def capture(
    model: Any,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    store_folder: Path,
    *,
    top_k: int,
    batch_size: int,
    eos_id: int,
    lead: Sequence[int] = (),
    model_sha256: str,
    tokenizer_sha256: str,
    precision: Precision = "float32",
) -> LogitStore:
    """The store of a causal `transformers` model over rows, made or continued in `store_folder`.

    tokenizer: the model's own (`pieces.read_tokenizer`); top_k is cut to its vocabulary. Head
    columns beyond the tokenizer are left out before normalizing. Rows longer than MAX_TOKENS, and
    rows that cannot be placed on bytes, stay in the store without steps, with their reason.
    Raises UserError for ids beyond the model's head, logits that are not finite, and a folder that
    holds the store of another capture.
    """
    table = piece_bytes(tokenizer)
    head = int(model.config.get_text_config().vocab_size)
    vocab = min(head, len(table))
    if top_k < 1 or batch_size < 1:
        raise UserError("capture", f"top_k {top_k}, batch_size {batch_size}", "both at least 1")
    top_k = min(top_k, vocab)
    samples = tokenize(rows, tokenizer, table, eos_id, lead)
    samples = [_fitting(sample, head) for sample in samples]
    meta = {
        "format": FORMAT,
        "smelt": __version__,
        "model_sha256": model_sha256,
        "tokenizer_sha256": tokenizer_sha256,
        "top_k": top_k,
        "vocab": vocab,
        "eos_id": eos_id,
        "lead": list(lead),
        "precision": precision,
        "max_tokens": MAX_TOKENS,
        "model_dtype": str(model.dtype).removeprefix("torch."),
        "rows": len(rows),
        "steps": sum(sample.num_steps for sample in samples if isinstance(sample, Tokenized)),
        "reasons": ["kept", *sorted({s.reason for s in samples if isinstance(s, Dropped)})],
    }
    # The batch size changes the last bits of the logits, so it belongs to the identity.
    meta["key"] = digest.value([meta, batch_size, [row_digest(row) for row in rows]])
    order = [i for i, sample in enumerate(samples) if isinstance(sample, Tokenized)]
    order.sort(key=lambda i: (-len(samples[i].ids), i))  # type: ignore[union-attr]
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    done = _prepare(store_folder, meta, rows, samples)
    if done < 0:
        return LogitStore.open(store_folder)
    _fill(model, samples, batches, store_folder, meta, done)
    write_meta(store_folder, meta)
    (store_folder / PROGRESS).unlink()
    return LogitStore.open(store_folder)


def _fitting(sample: Tokenized | Dropped, head: int) -> Tokenized | Dropped:
    if isinstance(sample, Dropped):
        return sample
    if sample.ids.max() >= head:
        raise UserError(
            "capture",
            f"token id {sample.ids.max()}",
            f"ids below {head}, the width of the model's head",
        )
    return sample if len(sample.ids) <= MAX_TOKENS else Dropped("too_long")


def _prepare(
    folder: Path, meta: dict[str, Any], rows: Sequence[Row], samples: list[Tokenized | Dropped]
) -> int:
    """Lay out the columns; the number of batches that are already there, -1 when all are."""
    if (folder / META).is_file():
        if LogitStore.open(folder).meta.get("key") != meta["key"]:
            raise UserError(
                folder, "the store of another capture", "a new folder", "name another one"
            )
        (folder / PROGRESS).unlink(missing_ok=True)
        return -1
    mark = folder / PROGRESS
    if mark.is_file():
        state = json.loads(mark.read_text())
        if state["key"] == meta["key"]:
            return int(state["batches"])
    if folder.exists() and any(folder.iterdir()):
        names = {path.name for path in folder.iterdir()}
        ours = {f"{name}.npy" for name in LogitStore.__dataclass_fields__} | {
            PROGRESS,
            PROGRESS + ".new",
        }
        if names - ours - {META + ".new"}:
            raise UserError(folder, "a folder that is not ours", "a new folder", "name another one")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = [isinstance(sample, Tokenized) for sample in samples]
    counts = [s.num_steps if isinstance(s, Tokenized) else 0 for s in samples]
    codes = [meta["reasons"].index(s.reason) if isinstance(s, Dropped) else 0 for s in samples]
    pending = [isinstance(s, Tokenized) and s.pending for s in samples]
    np.save(folder / "row.npy", np.array([row_digest(row) for row in rows], np.uint64))
    np.save(folder / "reason.npy", np.array(codes, np.uint8))
    np.save(folder / "pending.npy", np.array(pending, np.bool_))
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    for name, (shape, kind) in step_columns(
        meta["steps"], meta["top_k"], meta["precision"]
    ).items():
        if not any(kept):
            np.save(folder / f"{name}.npy", np.zeros(shape, kind))
            continue
        np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=kind, shape=shape
        ).flush()
    _mark(folder, meta["key"], 0)
    return 0


def _mark(folder: Path, key: str, batches: int) -> None:
    new = folder / (PROGRESS + ".new")
    new.write_text(json.dumps({"key": key, "batches": batches}))
    new.rename(folder / PROGRESS)


def _fill(
    model: Any,
    samples: list[Tokenized | Dropped],
    batches: list[list[int]],
    folder: Path,
    meta: dict[str, Any],
    done: int,
) -> None:
    if done == len(batches):
        return
    names = step_columns(0, 0, "float32")
    columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in names}
    offsets = np.load(folder / "offsets.npy")
    training = model.training
    model.eval()
    try:
        with Bar("capture", sum(map(len, batches)), sum(map(len, batches[:done]))) as bar:
            for number, batch in enumerate(batches[done:], start=done + 1):
                chosen = [sample for i in batch if isinstance(sample := samples[i], Tokenized)]
                logits, realized = _forward(model, chosen, meta["vocab"], meta["eos_id"])
                found = signal_blocks(logits, realized, meta["top_k"])
                if not bool(torch.isfinite(found["nll"]).all()):
                    raise UserError("capture", "logits that are not finite", "a healthy model")
                at = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in batch])
                columns["byte_end"][at] = np.concatenate([sample.byte_ends for sample in chosen])
                for name, tensor in found.items():
                    columns[name][at] = tensor.cpu().numpy()
                for column in columns.values():
                    column.flush()
                _mark(folder, meta["key"], number)
                bar.move(len(batch))
    finally:
        model.train(training)


@torch.inference_mode()
def _forward(
    model: Any, samples: list[Tokenized], vocab: int, pad_id: int
) -> tuple[Tensor, Tensor]:
    """Logits of the kept steps of all samples [steps vocab] and the token that follows each."""
    time = max(len(sample.ids) for sample in samples)
    ids = torch.full((len(samples), time), pad_id)
    mask = torch.zeros_like(ids)
    steps: list[Tensor] = []
    for number, sample in enumerate(samples):
        ids[number, : len(sample.ids)] = torch.from_numpy(sample.ids)
        mask[number, : len(sample.ids)] = 1
        steps.append(number * time + torch.arange(sample.first, len(sample.ids) - 1))
    flat = torch.cat(steps).to(model.device)
    ids, mask = ids.to(model.device), mask.to(model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits.flatten(0, 1)[flat][:, :vocab], ids.flatten()[flat + 1]


def signal_blocks(
    logits: Float[Tensor, "steps vocab"], realized: Int[Tensor, " steps"], top_k: int
) -> dict[str, Tensor]:
    """`signal` in blocks of steps, so that only a block stands in fp32 at a time."""
    blocks = [
        signal(part, after, top_k)
        for part, after in zip(
            torch.split(logits, STEPS_AT_ONCE), torch.split(realized, STEPS_AT_ONCE), strict=True
        )
    ]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def signal(
    logits: Float[Tensor, "steps vocab"], realized: Int[Tensor, " steps"], top_k: int
) -> dict[str, Tensor]:
    """What is kept of each step: ids and logp [steps top_k], rest and nll [steps]; fp32, in nats.

    The rest is summed over the other tokens, not 1 - sum p, so that a small rest keeps its digits.
    """
    logits = logits.float()
    total = logits.logsumexp(dim=-1)
    top, ids = logits.topk(top_k, dim=-1)
    outside = logits.scatter(1, ids, float("-inf")).logsumexp(dim=-1)
    return {
        "ids": ids,
        "logp": top - total.unsqueeze(1),
        "rest": (outside - total).exp(),
        "nll": total - logits.gather(1, realized.unsqueeze(1)).squeeze(1),
    }
