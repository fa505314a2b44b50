"""Drop documents with too few words that contain a letter, mildly enough for mathematics and code.

Gopher's rule (arXiv:2112.11446) wants 0.8 and, with a tokenizer that splits off punctuation, drops
every worked arithmetic problem and every Python file (0 of 500 and 0 of 114 kept when measured).
Words are split at white space here, and the default only catches tables and dumps of numbers.
"""

from smelt.data.document import Document, Verdict, drop, keep


def word_share(doc: Document, *, min_share: float = 0.3, min_words: int = 20) -> Verdict:
    """Reason `few_words`. Documents of fewer than `min_words` words are kept: chains are short."""
    words = doc.text.split()
    if len(words) < min_words:
        return keep()
    with_letter = sum(any(map(str.isalpha, word)) for word in words)
    return keep() if with_letter / len(words) >= min_share else drop("few_words")
