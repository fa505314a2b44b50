"""Which split of tokenizer.json is which name of llama.cpp's, and what has none."""

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers
from tokenizers import pre_tokenizers as pre

from smelt.core.errors import UserError
from smelt.export.pretokenizer import GPT2, LLAMA3, QWEN2, kind_of


def split(pattern: str) -> pre.PreTokenizer:
    cut = pre.Split(Regex(pattern), "isolated")
    return pre.Sequence([cut, pre.ByteLevel(add_prefix_space=False, use_regex=False)])


def as_json(step: Any, *, normalizer: Any = None, **options: Any) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE(**options))
    if step is not None:
        tokenizer.pre_tokenizer = step
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return json.loads(tokenizer.to_str())


LEVEL = pre.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize(
    ("step", "options", "name"),
    [
        (LEVEL, {}, "gpt-2"),
        (split(GPT2), {}, "gpt-2"),
        (pre.Sequence([pre.Digits(individual_digits=True), LEVEL]), {}, "smollm"),
        (split(QWEN2), {}, "qwen2"),
        (split(LLAMA3), {"ignore_merges": True}, "llama-bpe"),
        (split(LLAMA3), {}, "dbrx"),
    ],
)
def test_known_splits(step: Any, options: dict[str, Any], name: str) -> None:
    kind = kind_of(as_json(step, **options), "t")
    assert (kind.model, kind.pre, kind.composed) == ("gpt2", name, False)


def test_nfc_is_noted() -> None:
    assert kind_of(as_json(LEVEL, normalizer=normalizers.NFC()), "t").composed


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (as_json(split(r"\w+|\d")), r"\w+|\d"),
        (as_json(pre.Sequence([pre.Digits(), LEVEL])), "Digits"),
        (as_json(pre.Sequence([pre.Punctuation(), LEVEL])), "Punctuation"),
        (as_json(pre.Whitespace()), "Whitespace"),
        (as_json(None), "None"),
        (as_json(pre.ByteLevel(add_prefix_space=True)), "ByteLevel"),
        (as_json(LEVEL, normalizer=normalizers.Lowercase()), "Lowercase"),
        (as_json(split(QWEN2), ignore_merges=True), "llama-bpe"),
        (as_json(LEVEL, continuing_subword_prefix="##"), "##"),
        (as_json(pre.Metaspace(), byte_fallback=True), "Metaspace"),
        (as_json(None, byte_fallback=True, normalizer=normalizers.NFKC()), "NFKC"),
        ({"model": {"type": "Unigram"}}, "Unigram"),
    ],
)
def test_unknown_ones_are_refused_by_name(data: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        kind_of(data, "tokenizer.json")
    assert told.replace("\\", "\\\\") in str(caught.value) or told in str(caught.value)


@pytest.mark.parametrize("prepend", [True, False])
def test_sentencepiece_type(prepend: bool) -> None:
    steps = [normalizers.Prepend("▁")] if prepend else []
    both = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    kind = kind_of(as_json(None, byte_fallback=True, normalizer=both), "t")
    assert (kind.model, kind.add_space_prefix) == ("llama", prepend)


@pytest.mark.parametrize(("scheme", "prefix"), [("first", True), ("never", False)])
def test_metaspace_without_split(scheme: str, prefix: bool) -> None:
    step = pre.Metaspace(prepend_scheme=scheme, split=False)
    assert kind_of(as_json(step, byte_fallback=True), "t").add_space_prefix is prefix
