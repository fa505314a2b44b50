"""Drop documents that end at a colon: pages whose formula or code was cut away. (arXiv:2502.11573)

InfiR's lesson: trained on such pages, a model ends its answers right after a colon.
"""

from smelt.data.document import Document, Verdict, drop, keep


def ends_with_colon(doc: Document, *, marks: str = ":：") -> Verdict:
    """Reason `ends_with_colon`. Closing quotes, brackets and white space after it do not help."""
    text = doc.text.rstrip("\"'`*_)]}» \t\r\n")
    return drop("ends_with_colon") if text and text[-1] in marks else keep()
