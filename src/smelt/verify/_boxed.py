"""What several verifiers read alike: what `\\boxed{...}` holds, and lists of options."""

import re

MAX_CHARACTERS = 100_000
_ANOTHER = re.compile(
    r"[)\]}*$]*+(?:\s*+(?:,?\s*+(?:or|and)\b|[,/&])|(?<=[)\]])\s*+(?=[(\[]))\s*+(?:option\s++)?"
    r"[(\[*]*+[A-Z][)\]}*$]*+(?:[.,;/&]|\s*+(?:$|[(\[])|\s++(?:or|and)\b)",
    re.MULTILINE,
)


def names_another(text: str, at: int) -> bool:
    """Whether another option follows the one that ends at a place: ", B.", "or (C)", "(D)"."""
    return _ANOTHER.match(text, at) is not None


def box(text: str) -> str | None:
    """What the last complete `\\boxed{...}` of a text holds, braces inside it balanced."""
    text = text[-MAX_CHARACTERS:]
    end = len(text)
    for _ in range(20):
        start = text.rfind("\\boxed{", 0, end)
        if start < 0:
            return None
        depth, begin = 0, start + len("\\boxed")
        for at in range(begin, len(text)):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                return text[begin + 1 : at].strip()
        end = start
    return None
