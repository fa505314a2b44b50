"""The program in a written answer: fenced blocks, bare code, the continuation of a prompt."""

import re

_FENCE = re.compile(
    r"^[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([\w+-]*+)[^\n]*+\n(.*?)(?:^[ \t]*+\1|\Z)",
    re.DOTALL | re.MULTILINE,
)
_CODE = re.compile(
    r"^(?:from\s+[\w.]+\s+import\s|import\s+\w|(?:async\s+)?def\s+\w|class\s+\w|@\w|\w+\s*=[^=])",
    re.MULTILINE,
)
_PYTHON = {"", "py", "python", "python3", "Python"}
MAX_CHARACTERS = 200_000


def defines(source: str, name: str) -> bool:
    """Whether the text has a top-level definition of that name (by its look: it may not parse)."""
    word = re.escape(name)
    return (
        re.search(rf"^(?:(?:async\s+)?def|class)\s+{word}\b|^{word}\s*=", source, re.MULTILINE)
        is not None
    )


def blocks(answer: str) -> list[str]:
    """The fenced blocks in Python or in no named language; the last one may be unclosed."""
    found = _FENCE.findall(answer[:MAX_CHARACTERS])
    return [code for _, language, code in found if language in _PYTHON]


def program(answer: str, functions: tuple[str, ...] = ()) -> str:
    """The program that an answer is.

    The last fenced block that defines all the functions, else all blocks together; without a
    block the text itself, from its first line that begins like a program.
    """
    found = blocks(answer)
    for code in reversed(found):
        if all(defines(code, name) for name in functions):
            return code
    if found:
        return "\n".join(found)
    begin = _CODE.search(answer[:MAX_CHARACTERS])
    return answer[begin.start() if begin else 0 :]


def between(answer: str, begin: str, end: str) -> str:
    """What stands between two marks, both of which may be missing."""
    _, found, rest = answer.partition(begin)
    return (rest if found else answer).partition(end)[0]


def completed(prompt: str, answer: str, function: str) -> str:
    """The program of an answer to a prompt that ends in a function to be completed.

    An answer that defines the function stands after what the prompt has before it (imports, helper
    functions); any other continues the prompt.
    """
    code = program(answer, (function,)) if "```" in answer or "~~~" in answer else answer
    if not defines(code, function):
        return prompt + code
    code = program(code, (function,))
    start = re.search(rf"^(?:async\s+)?def\s+{re.escape(function)}\b", prompt, re.MULTILINE)
    return (prompt[: start.start()] if start else prompt) + "\n" + code
