"""From the pre-tokenizer of a tokenizer.json to llama.cpp's name for the same split.

llama.cpp does not read split patterns from a file: it has them compiled in under names, and a
wrong name is silent (it mis-tokenizes most texts). So only patterns known to be the same are
mapped, and what is mapped is still proven by `parity.compare_tokenizer`.
"""

from dataclasses import dataclass
from typing import Any

from smelt.core.errors import UserError

BLANK = "▁"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL

# (patterns in order, merges ignored for whole words) -> name in llama.cpp
NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((r"\p{N}", GPT2), False): "smollm",
    ((QWEN2,), False): "qwen2",
    ((LLAMA3,), True): "llama-bpe",
    ((LLAMA3,), False): "dbrx",  # the split of llama-bpe, with merges applied to whole words
}


@dataclass(frozen=True)
class Kind:
    """What llama.cpp must be told. model: 'gpt2' (merges) or 'llama' (scores)."""

    model: str
    pre: str
    add_space_prefix: bool
    composed: bool = False
    """The tokenizer normalizes to NFC first, which llama.cpp does not."""


def kind_of(tokenizer: dict[str, Any], where: object) -> Kind:
    """The llama.cpp kind of a tokenizer.json. Raises UserError naming what is not known there."""
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        raise UserError(where, "no model in it", "a tokenizer.json of the tokenizers library")
    if model.get("type", "BPE") != "BPE":
        raise UserError(where, f"a {model.get('type')} tokenizer", "BPE, to export it as GGUF")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise UserError(where, f"model.{key} is {model[key]!r}", "a BPE without it")
    if model.get("byte_fallback"):
        return _sentencepiece(tokenizer, where)
    normalizer = tokenizer.get("normalizer")
    if normalizer is not None and normalizer != {"type": "NFC"}:
        found = f"the normalizer {_show(normalizer)}"
        raise UserError(where, found, "none, or NFC, beside byte-level BPE in llama.cpp")
    patterns = _patterns(tokenizer.get("pre_tokenizer"), where)
    name = NAMES.get((patterns, bool(model.get("ignore_merges"))))
    if name is None:
        found = f"the split {' then '.join(patterns)!r} has no name in llama.cpp"
        raise UserError(where, found, "one of: " + ", ".join(sorted(set(NAMES.values()))))
    return Kind("gpt2", name, add_space_prefix=False, composed=normalizer is not None)


def _patterns(pre: dict[str, Any] | None, where: object) -> tuple[str, ...]:
    """The regular expressions that a byte-level pre-tokenizer splits by, in order."""
    steps = [pre] if pre else []
    if pre and pre["type"] == "Sequence":
        steps = pre["pretokenizers"]
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        expected = "a last step ByteLevel without prefix space"
        raise UserError(where, f"the pre-tokenizer {_show(pre)}", expected)
    found: list[str] = []
    for step in steps[:-1]:
        isolated = step.get("behavior") == "Isolated" and not step.get("invert")
        if step["type"] == "Digits" and step.get("individual_digits"):
            found.append(r"\p{N}")
        elif step["type"] == "Split" and isolated and "Regex" in step["pattern"]:
            found.append(step["pattern"]["Regex"])
        else:
            raise UserError(
                where, f"the pre-tokenizer step {_show(step)}", "Split or single digits"
            )
    if steps[-1].get("use_regex", True):
        found.append(GPT2)
    return tuple(found)


def _sentencepiece(tokenizer: dict[str, Any], where: object) -> Kind:
    """A BPE of characters with byte fallback, blanks written as '▁' and no further split."""
    normalizer = tokenizer.get("normalizer") or {"type": "Sequence", "normalizers": []}
    steps = normalizer.get("normalizers", [normalizer])
    prepend = {"type": "Prepend", "prepend": BLANK}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    pre = tokenizer.get("pre_tokenizer")
    if pre is None and steps in ([prepend, replace], [replace]):
        return Kind("llama", "default", add_space_prefix=prepend in steps)
    if pre and pre["type"] == "Metaspace" and not steps and not pre.get("split", True):
        scheme = pre.get("prepend_scheme", "always")
        if pre.get("replacement") == BLANK and scheme in ("never", "first"):
            return Kind("llama", "default", add_space_prefix=scheme == "first")
    found = f"byte fallback with normalizer {_show(normalizer)}, pre-tokenizer {_show(pre)}"
    raise UserError(where, found, "blanks replaced by '▁', at most one put in front, no split")


def _show(item: Any) -> str:
    text = str(item)
    return text if len(text) <= 200 else text[:200] + "..."
