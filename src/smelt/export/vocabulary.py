"""The tokenizer of a checkpoint folder as the lists that a GGUF file holds."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smelt.checkpoint.folder import vocabulary
from smelt.checkpoint.reader import read_optional_json
from smelt.core.errors import UserError
from smelt.export.pretokenizer import Kind, kind_of

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, with what llama.cpp needs to tokenize as tokenizer.json does."""

    kind: Kind
    tokens: list[str]
    types: list[int]
    merges: list[str]
    """'left right' by rank; written for kind 'gpt2'."""
    scores: list[float]
    """Written for kind 'llama': minus the rank of the merge that makes the piece."""
    bos_id: int | None
    eos_id: int
    pad_id: int | None
    unk_id: int | None
    add_bos: bool
    add_eos: bool
    chat_template: str | None


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of a folder, filled up to the `rows` of the model's embedding.

    Raises UserError when llama.cpp has no equal tokenizer, ids exceed the rows, or no
    end-of-text token is named (llama.cpp would silently take id 11 or 2 for it).
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(folder, "no tokenizer.json in it", "a Hugging Face checkpoint folder")
    raw = read_optional_json(path)
    kind = kind_of(raw, path)
    added = raw.get("added_tokens") or []
    pieces = vocabulary(folder) or {}
    if max(pieces.values()) >= rows:
        found = f"token id {max(pieces.values())}, but the model has {rows} embedding rows"
        raise UserError(path, found, "the tokenizer that the model was trained with")
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [UNUSED] * rows
    for piece, index in pieces.items():
        tokens[index], types[index] = piece, NORMAL
    merges = [m.split(" ") if isinstance(m, str) else list(m) for m in raw["model"]["merges"]]
    unknown = raw["model"].get("unk_token")
    if kind.model == "llama":
        _mark_bytes(tokens, types, path)
    for token in added:
        types[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    if unknown is not None and unknown in pieces:
        types[pieces[unknown]] = UNKNOWN
    named, config = (
        read_optional_json(folder / "tokenizer_config.json"),
        read_optional_json(folder / "config.json"),
    )

    def token_id(role: str) -> int | None:
        entry = named.get(f"{role}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        number = pieces.get(text) if isinstance(text, str) else config.get(f"{role}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        return number if isinstance(number, int) and 0 <= number < rows else None

    eos = token_id("eos")
    if eos is None:
        raise UserError(folder, "no end-of-text token", "eos_token in tokenizer_config.json")
    before, after = _template(raw.get("post_processor"), path)
    bos = before[0] if before else token_id("bos")
    if after not in ([], [eos]):
        raise UserError(path, f"a template that ends in ids {after}", f"nothing, or id {eos}")
    return Vocabulary(
        kind=kind,
        tokens=tokens,
        types=types,
        merges=[" ".join(pair) for pair in merges],
        scores=_scores(tokens, merges),
        bos_id=bos,
        eos_id=eos,
        pad_id=token_id("pad"),
        unk_id=token_id("unk"),
        add_bos=bool(before),
        add_eos=bool(after),
        chat_template=_chat_template(folder, named),
    )


def _mark_bytes(tokens: list[str], types: list[int], where: Path) -> None:
    found = [index for index, piece in enumerate(tokens) if _BYTE.fullmatch(piece)]
    if len(found) != 256:
        raise UserError(
            where, f"byte fallback with {len(found)} byte tokens", "256: <0x00> to <0xFF>"
        )
    for index in found:
        types[index] = BYTE


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """Minus the rank of the first merge that makes each piece; llama.cpp joins best first.

    Pieces that no merge makes (characters, bytes) are never joined, so any low score serves.
    """
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [-float(ranks.get(piece, len(merges))) for piece in tokens]


def _template(post: dict[str, Any] | None, where: Path) -> tuple[list[int], list[int]]:
    """Control ids that tokenizer.json puts before and after a text."""
    steps = post.get("processors", [post]) if post else []
    before: list[int] = []
    after: list[int] = []
    for step in steps:
        if step["type"] == "ByteLevel":
            continue
        if step["type"] != "TemplateProcessing":
            raise UserError(where, f"the post-processor {step['type']}", "TemplateProcessing")
        side = before
        for part in step["single"]:
            if "Sequence" in part:
                side = after
            else:
                side.extend(step["special_tokens"][part["SpecialToken"]["id"]]["ids"])
    if len(before) > 1:
        raise UserError(where, f"{len(before)} control tokens before a text", "at most one")
    return before, after


def _chat_template(folder: Path, named: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = named.get("chat_template")
    if isinstance(template, list):  # several named ones: "default" is the one that chat uses
        template = {row["name"]: row["template"] for row in template}.get("default")
    return template if isinstance(template, str) else None
