"""Byte table of a tokenizer: the bytes that each token stands for, and where tokens end in a text.

Everything in fusion stands on bytes, because they are what two tokenizers have in common. Strings
are not enough: U+00E8 is a letter in one vocabulary and the symbol of byte 0xE8 in another.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from smelt.core.errors import UserError

Table = list[bytes | None]

SPACE_MARK = "\u2581"
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class Dropped(Exception):  # noqa: N818 - an outcome that callers count, not a failure
    """A text that cannot be placed on bytes; `reason` is the name under which it is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_tokenizer(folder: Path) -> Tokenizer:
    """The raw `tokenizer.json` of a folder, without its truncation and padding settings.

    Not through transformers, which rebuilds the pre-tokenizer of some configs and then cuts
    digits and blanks differently. Raises UserError when the file is missing or damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(path, "no such file", "the tokenizer of a Hugging Face model folder")
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises bare Exception for every parse error
        raise UserError(path, f"not a tokenizer ({error})", "a tokenizer.json") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet, inverted: printable bytes are themselves, the others follow from U+0100."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


def _parts(spec: Any) -> list[dict[str, Any]]:
    """The components of a normalizer, pre-tokenizer or decoder, with sequences opened."""
    if not isinstance(spec, dict):
        return []
    inner = next(
        (spec[key] for key in ("normalizers", "pretokenizers", "decoders") if key in spec), None
    )
    return [spec] if inner is None else [part for item in inner for part in _parts(item)]


def _marks_spaces(spec: dict[str, Any]) -> bool:
    """Does it write a space as SentencePiece's mark?"""
    parts = _parts(spec.get("pre_tokenizer")) + _parts(spec.get("normalizer"))
    return any(
        (part["type"] == "Metaspace" and part.get("replacement", SPACE_MARK) == SPACE_MARK)
        or (part["type"] == "Replace" and part.get("content") == SPACE_MARK)
        for part in parts
    )


def _reader(spec: dict[str, Any]) -> Any:
    """The function piece -> bytes of a tokenizer's kind. UserError for kinds that lose bytes."""
    model = spec["model"]
    affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    byte_level = any(
        part["type"] == "ByteLevel"
        for name in ("pre_tokenizer", "normalizer")
        for part in _parts(spec.get(name))
    )
    if model["type"] == "BPE" and byte_level and not affixes:
        alphabet = _byte_alphabet()

        def byte_symbols(piece: str) -> bytes | None:
            # A piece with other symbols can never come out of byte-level text.
            symbols = [alphabet.get(symbol) for symbol in piece]
            return None if None in symbols else bytes(b for b in symbols if b is not None)

        return byte_symbols
    if model["type"] in ("BPE", "Unigram") and _marks_spaces(spec) and not affixes:
        fallback = bool(model.get("byte_fallback"))

        def marked(piece: str) -> bytes | None:
            byte = BYTE_PIECE.fullmatch(piece) if fallback else None
            if byte:
                return bytes([int(byte[1], 16)])
            return piece.replace(SPACE_MARK, " ").encode()

        return marked
    raise UserError(
        "tokenizer",
        f"a {model['type']} tokenizer whose tokens do not add up to the bytes of the text",
        "byte-level BPE, or SentencePiece (BPE or Unigram, spaces written as \u2581)",
    )


def piece_bytes(tokenizer: Tokenizer) -> Table:
    """The bytes of every token id; None for special, unknown and unused ids.

    Byte-level BPE: the GPT-2 alphabet inverted symbol by symbol. SentencePiece: the mark is byte
    0x20, `<0xNN>` is one byte. Added tokens that are not special stand for their own text.
    Raises UserError for tokenizers that do not keep bytes (WordPiece, WordLevel, word suffixes).
    """
    spec = json.loads(tokenizer.to_str())
    read = _reader(spec)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    table: Table = [None] * (max(vocabulary.values(), default=-1) + 1)
    for piece, token_id in vocabulary.items():
        table[token_id] = read(piece)
    marked = _marks_spaces(spec)
    for token_id, added in tokenizer.get_added_tokens_decoder().items():
        # A normalized added token is searched in the text after spaces have become marks.
        text = (
            added.content.replace(SPACE_MARK, " ") if marked and added.normalized else added.content
        )
        table[token_id] = None if added.special else text.encode()
    unknown = spec["model"].get("unk_token")
    if unknown is None and isinstance(spec["model"].get("unk_id"), int):
        table[spec["model"]["unk_id"]] = None
    elif unknown in vocabulary:
        table[vocabulary[unknown]] = None
    return table


def ends(ids: Sequence[int], table: Table, text: bytes) -> tuple[npt.NDArray[np.int64], int]:
    """Where each token ends in `text`, in bytes, and the number of dummy spaces before it (0 or 1).

    SentencePiece may write a space before the text that is not in it; it is subtracted, so a token
    that is only this space ends at byte 0. Raises Dropped("special_token") for an id without bytes
    and Dropped("no_round_trip") when the tokens' bytes are not the text (NFC, lower-casing, ...).
    """
    pieces: list[bytes] = []
    for token_id in ids:
        piece = table[token_id]
        if piece is None:
            raise Dropped("special_token")
        pieces.append(piece)
    joined = b"".join(pieces)
    lead = 0
    if joined != text:
        if joined[:1] != b" " or joined[1:] != text:
            raise Dropped("no_round_trip")
        lead = 1
    lengths = np.fromiter((len(piece) for piece in pieces), np.int64, len(pieces))
    return np.cumsum(lengths) - lead, lead
