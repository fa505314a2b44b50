"""The pages of the documentation and the fenced blocks in them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def fences(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    return [body for name, body in FENCE.findall(page.read_text()) if name in languages]
