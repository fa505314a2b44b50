"""Drop documents with more characters than a maximum."""

from smelt.data.document import Document, Verdict, drop, keep


def max_length(doc: Document, *, max_chars: int = 100_000) -> Verdict:
    """Reason `too_long`. Dropped, not cut: half a derivation teaches to stop in the middle."""
    return keep() if len(doc.text) <= max_chars else drop("too_long")
