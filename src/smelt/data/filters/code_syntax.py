"""Drop Python source that does not parse. The source is parsed, never run."""

import ast
import warnings

from smelt.data.document import Document, Verdict, drop, keep


def code_syntax(doc: Document, *, fenced: bool = False) -> Verdict:
    """Reasons `bad_syntax` and `too_nested`; `no_code` when a fenced block was expected.

    fenced: check the ```python blocks of a text in place of the whole document.
    Restrict the rule to code sources with `only`.
    """
    blocks = _blocks(doc.text) if fenced else [doc.text]
    if fenced and not blocks:
        return drop("no_code")
    for block in blocks:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old escapes in literals are no concern here
                ast.parse(block)
        except (SyntaxError, ValueError):
            return drop("bad_syntax")
        except (RecursionError, MemoryError):
            return drop("too_nested")
    return keep()


def _blocks(text: str) -> list[str]:
    blocks: list[str] = []
    inside: list[str] | None = None
    for line in text.splitlines(keepends=True):
        mark = line.strip()
        if inside is None and mark in ("```python", "```py"):
            inside = []
        elif inside is not None and mark == "```":
            blocks.append("".join(inside))
            inside = None
        elif inside is not None:
            inside.append(line)
    if inside is not None:  # cut off in the middle: must still parse to be of use
        blocks.append("".join(inside))
    return blocks
