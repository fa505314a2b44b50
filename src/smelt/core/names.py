"""Short names for what is known by its path."""

import os
from pathlib import Path


def short_names(texts: list[str]) -> dict[str, str]:
    """Per path the end of it that no other has, as it is written: the same on any machine.

    >>> short_names(["runs/a/final", "runs/b/final/", "base"])
    {'runs/a/final': 'a/final', 'runs/b/final/': 'b/final', 'base': 'base'}
    """
    parts = {text: _parts(text) for text in texts}
    names = {}
    for text, own in parts.items():
        ends = [other for key, other in parts.items() if key != text]
        size = 1
        while size < len(own) and any(other[-size:] == own[-size:] for other in ends):
            size += 1
        names[text] = "/".join(own[-size:])
    return names


def _parts(text: str) -> tuple[str, ...]:
    own = Path(os.path.normpath(text)).parts
    # "." and ".." are no names.
    return own if own and own[-1] != ".." else Path(text).absolute().resolve().parts
