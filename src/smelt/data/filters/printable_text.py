"""Drop binary data and broken encodings: control, unassigned and replacement characters."""

import unicodedata

from smelt.data.document import Document, Verdict, drop, keep

_WHITE = frozenset("\t\n\r\f")


def printable_text(doc: Document, *, max_share: float = 0.001) -> Verdict:
    """Reasons `empty` (nothing but white space) and `not_printable`.

    Counted are control characters other than tab, line and page breaks, surrogates, private and
    unassigned code points, and U+FFFD, which a wrong decoding leaves behind.
    """
    if not doc.text.strip():
        return drop("empty")
    if doc.text.isascii() and doc.text.isprintable():
        return keep()
    bad = sum(map(_bad, doc.text))
    return keep() if bad <= max_share * len(doc.text) else drop("not_printable")


def _bad(character: str) -> bool:
    if character in _WHITE:
        return False
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn")
