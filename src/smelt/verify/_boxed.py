"""What `\\boxed{...}` holds, for the verifiers that read it."""

MAX_CHARACTERS = 100_000


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
