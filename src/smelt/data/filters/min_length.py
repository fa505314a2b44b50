"""Drop documents with fewer characters than a minimum; a pair counts as a whole."""

from smelt.data.document import Document, Verdict, drop, keep


def min_length(doc: Document, *, min_chars: int = 40) -> Verdict:
    """Reason `too_short`. Characters are counted without white space at the ends.

    The default keeps one worked problem; web profiles ask for a few hundred. Chains are shorter
    than any prose: restrict the rule with `only`, or lower it.
    """
    return keep() if len(doc.text.strip()) >= min_chars else drop("too_short")
