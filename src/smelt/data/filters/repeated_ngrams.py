"""Drop documents in which repeated word n-grams cover too much of the text. (arXiv:2112.11446)"""

from smelt.data.document import Document, Verdict, drop, keep


def repeated_ngrams(
    doc: Document, *, words: int = 8, max_share: float = 0.3, min_words: int = 40
) -> Verdict:
    """Reason `repeated_ngrams`: the share of characters inside n-grams that occurred before.

    Gopher takes n = 5..10 with 0.15..0.10; worked solutions repeat their formulas on purpose, so
    the default is one n with a milder share. Documents below `min_words` are kept.
    """
    found = doc.text.split()
    if len(found) < max(min_words, words):
        return keep()
    seen: set[tuple[str, ...]] = set()
    covered = [False] * len(found)
    for start in range(len(found) - words + 1):
        gram = tuple(found[start : start + words])
        if gram in seen:
            covered[start : start + words] = [True] * words
        seen.add(gram)
    repeated = sum(len(word) for word, twice in zip(found, covered, strict=True) if twice)
    share = repeated / sum(map(len, found))
    return keep() if share <= max_share else drop("repeated_ngrams")
