"""Texts and prompts on which an exported model must behave as its source."""

import random
import unicodedata

_PROSE = (
    "The quick brown fox jumps over the lazy dog, then sleeps.",
    "It's the dog's; they're sure we've seen what I'd say: you'll see, I'm told.",
    "IT'S THE DOG'S; WE'LL SEE.",
    "“Curly quotes” – dashes — and an ellipsis… are common.",
    "A paragraph.\n\nAnother one,\nwith a line break.\n",
    "Numbers: 1 12 123 1234 12345 3.14159 1,000,000 -7 +8 1e-9 0x1F 50% $9.99",
    "Half ½, superscript x², Roman Ⅻ, Arabic-Indic ٣٤٥, Devanagari १२३.",
)
_CODE = (
    "def add(a, b):\n    return a + b\n",
    'for (int i = 0; i < 10; ++i) {\n\tprintf("%d\\n", i);\n}\n',
    "SELECT * FROM t WHERE x >= 1 AND y != 'z'; -- note",
    '<div class="a b"><p>text</p></div><!-- c -->',
    '#!/bin/sh\nset -e\nrm -rf "$HOME/x" && echo $? | tee /dev/null',
    "lambda x: {k: v for k, v in x.items() if v is not None}",
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE __dunder__",
    "\\frac{1}{2} \\sum_{i=1}^{n} x_i^2 \\leq \\|x\\|_2",
)
_CHAINS = (
    "max[352]*1-2=5*1-2=5-2=3.",
    "max[352]*1-2=",
    "rev[123]=[321].",
    "T&!F=T&T=T.",
    "((1+2)*3)-4=(3*3)-4=9-4=5.",
)
_SCRIPTS = (
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。",
    "吾輩は猫である。名前はまだ無い。カタカナも。",
    "안녕하세요 세계! 한국어 문장입니다.",
    "Привет, мир! Это проверка.",
    "Ελληνικά, العربية, עברית, हिन्दी, ไทย",
    "naïve café, Ångström, Straße, Łódź, İstanbul",
    "🙂 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ a🙂b",
    "\u200b\u00a0non-breaking\u00a0and\u2003em\u3000ideographic\ufeff",
    "\x01\x7f control \x1b[0m",
)
_BLANKS = (
    " ",
    "  ",
    "   ",
    "    ",
    " " * 7,
    " " * 16,
    " " * 33,
    "\t",
    "\t\t\tx",
    "\n",
    "\n\n",
    "\n\n\n\ny",
    "\r\n",
    "a\r\nb\r\n\r\nc",
    " \n \n  \t\n ",
    " leading",
    "   leading",
    "trailing ",
    "trailing   ",
    "a  b   c    d     e",
    "x\t y\t\tz \t w",
    "\n  indented\n\tdeeper\n",
    ".",
    "...",
    "?!?!",
    "-----",
    "=====",
    "a",
    "0",
    "00000000",
)
_FIXED = (*_PROSE, *_CODE, *_CHAINS, *_SCRIPTS, *_BLANKS)
_NUM_MIXED = 250

PROMPTS = (
    "Once upon a time, there was",
    "The quick brown fox",
    "max[352]*1-2=",
    "def add(a, b):\n",
    "1, 2, 3,",
    "T&!F=",
)

LIMITS = [
    "the tokenizer normalizes text to NFC and llama.cpp does not: text in another form (decomposed "
    "accents) is tokenized otherwise there"
]


def texts(*, composed: bool = False) -> list[str]:
    """Fixed texts, and fragments of them in random (always the same) order and cut anywhere.

    composed: in Unicode normal form C, for tokenizers that normalize and a runtime that does not.
    """
    draw = random.Random(0)
    fragments = [piece for text in _FIXED for piece in (text, text[: len(text) // 2], text[-3:])]
    mixed = ["".join(draw.choices(fragments, k=draw.randint(2, 5))) for _ in range(_NUM_MIXED)]
    found = [*_FIXED, *mixed]
    return [unicodedata.normalize("NFC", text) for text in found] if composed else found


def texts_with(tokens: list[str]) -> list[str]:
    """Texts around control tokens, as chat templates write them."""
    around = [text for token in tokens for text in (token, f"a{token}b", f"x {token} y\n{token}")]
    return [*around, "".join(tokens)] if tokens else []
