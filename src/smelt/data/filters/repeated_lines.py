"""Drop documents in which too large a share of lines repeats an earlier one. (arXiv:2112.11446)"""

from smelt.data.document import Document, Verdict, drop, keep


def repeated_lines(doc: Document, *, max_share: float = 0.3, min_chars: int = 4) -> Verdict:
    """Reason `repeated_lines`. Gopher's duplicate-line share, 0.3.

    Lines below `min_chars` (without white space at the ends) do not count: `}`, `else:` or `)`
    repeat in good code, and empty lines repeat everywhere.
    """
    lines = [line.strip() for line in doc.text.splitlines()]
    lines = [line for line in lines if len(line) >= min_chars]
    share = 1 - len(set(lines)) / len(lines) if lines else 0.0
    return keep() if share <= max_share else drop("repeated_lines")
