"""Thresholds of the filters, and the reasoning rows that web thresholds would delete."""

from typing import Any

import pytest

from smelt.core import registry
from smelt.data.document import make


@pytest.mark.parametrize(
    ("name", "options", "text", "reason"),
    [
        ("min_length", {"min_chars": 5}, "  abcd  ", "too_short"),
        ("min_length", {"min_chars": 4}, "  abcd  ", None),
        ("max_length", {"max_chars": 3}, "abcd", "too_long"),
        ("max_length", {"max_chars": 4}, "abcd", None),
        ("repeated_lines", {"max_share": 0.3}, "line a\nline a\nline b\n", "repeated_lines"),
        ("repeated_lines", {"max_share": 0.34}, "line a\nline a\nline b\n", None),
        ("repeated_lines", {}, "}\n}\n}\n}\nlong line\n", None),
        ("repeated_ngrams", {}, "the quick brown fox jumps over a dog " * 6, "repeated_ngrams"),
        ("repeated_ngrams", {}, " ".join(map(str, range(100))), None),
        ("repeated_ngrams", {"words": 2, "min_words": 4, "max_share": 0.49}, "a b c a b", None),
        ("repeated_ngrams", {"words": 2, "min_words": 4, "max_share": 0.39}, "a b c a b",
         "repeated_ngrams"),
        ("word_share", {}, "12 34 " * 20 + "word", "few_words"),
        ("word_share", {"min_share": 0.5, "min_words": 4}, "a b 1 2", None),
        ("word_share", {"min_share": 0.51, "min_words": 4}, "a b 1 2", "few_words"),
        ("ends_with_colon", {}, "the formula is: ", "ends_with_colon"),
        ("ends_with_colon", {}, "**the formula is:**\n", "ends_with_colon"),
        ("ends_with_colon", {}, "a: b", None),
        ("code_syntax", {}, "def f(:\n", "bad_syntax"),
        ("code_syntax", {}, "x = '\\d'\n", None),
        ("code_syntax", {}, "x = 1\x00", "bad_syntax"),
        ("code_syntax", {"fenced": True}, "Text\n```python\nx = (\n```\n", "bad_syntax"),
        ("code_syntax", {"fenced": True}, "Text\n```python\nx = 1\n```\nmore ( text", None),
        ("code_syntax", {"fenced": True}, "no code here", "no_code"),
        ("code_syntax", {}, "(" * 5000 + ")" * 5000, "bad_syntax"),
        ("printable_text", {}, "\x00\x01binary", "not_printable"),
        ("printable_text", {}, "wrong\ufffddecoding", "not_printable"),
        ("printable_text", {}, "naïve 数学 \u2212 x² ∑", None),
        ("printable_text", {}, " \n\t", "empty"),
        ("printable_text", {"max_share": 0.5}, "a\x00", None),
    ],
)  # fmt: skip
def test_threshold(name: str, options: dict[str, Any], text: str, reason: str | None) -> None:
    doc = make(text, source="s", domain="d")
    assert registry.load("filter", name)(doc, **options).reason == reason


def test_reasoning_rows_survive_all_text_filters() -> None:
    """Gopher's stock thresholds keep 0 of 500 worked problems (design/training.md 4a)."""
    worked = [
        f"Question: what is {a}*{b} + {a}?\n{a} * {b} = {a * b}\n{a * b} + {a} = {a * b + a}\n"
        f"The answer is {a * b + a}.\n"
        for a in range(10, 30)
        for b in range(10, 20)
    ]
    three = ["\n".join(worked[i : i + 3]) for i in range(0, len(worked) - 3, 3)]
    for name in registry.names("filter"):
        if name != "code_syntax":
            rule = registry.load("filter", name)
            assert [t for t in three if not rule(make(t, source="s", domain="math")).kept] == []
