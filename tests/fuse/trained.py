"""Three tokenizers trained in the test, of the kinds that fusion must bring together."""

import json
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

SHARED = Path(__file__).resolve().parents[3] / "shared" / "tokenizers"
SHARED_NAMES = ["gpt2", "gpt-neox-20b", "qwen2.5", "mistral-7b-v0.1", "phi-3-mini"]

CORPUS = [
    "The quick brown fox jumps over the lazy dog, then sleeps 12 hours.",
    "max[352]*1-2=5*1-2=5-2=3. 1234 + 5678 = 6912; 10000 / 25 = 400",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 22))\n",
    "naïve café, Ångström, straße, 你好世界, здравствуй мир",
] * 8


def byte_bpe(vocab: int = 420, *, digits: bool = False) -> Tokenizer:
    """Byte-level BPE; with `digits`, numbers are cut into groups of at most three."""
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not digits)
    groups = pre_tokenizers.Split(Regex(r"\p{N}{1,3}|[^\p{N}\s]+|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([groups, level]) if digits else level
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentencepiece(vocab: int = 300) -> Tokenizer:
    """SentencePiece-like BPE: dummy space before the text, and bytes for unknown letters."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    # Latin letters only, so that Chinese and Cyrillic fall back to bytes.
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS[:3], trainer)
    spec = json.loads(tokenizer.to_str())
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [piece for piece in spec["model"]["vocab"] if piece != "<unk>"]
    spec["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    spec["model"]["byte_fallback"] = True
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    spec["added_tokens"] = [
        {"id": number, "content": content, "special": True, **flags}
        for number, content in enumerate(pieces[:3])
    ]
    return Tokenizer.from_str(json.dumps(spec))


@cache
def trained() -> dict[str, tuple[Tokenizer, int]]:
    """name -> (tokenizer, eos id)."""
    return {
        "byte_bpe": (byte_bpe(), 0),
        "digits": (byte_bpe(520, digits=True), 0),
        "sentencepiece": (sentencepiece(), 2),
    }
