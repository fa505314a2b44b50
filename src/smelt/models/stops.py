"""Where a written text ends: at end tokens, and at stop texts that may lie across tokens."""

from smelt.models.prompts import Prompts

# More tokens than one character takes: what comes before them cannot change how the last look.
MARGIN = 8


class Stops:
    """End tokens and stop texts of one request.

    A stop text that is a control token ends the answer as a token: as text it is never seen.
    """

    def __init__(self, prompts: Prompts, ends: frozenset[int], stop: tuple[str, ...]) -> None:
        self._prompts = prompts
        self.ends = ends | {prompts.special[text] for text in stop if text in prompts.special}
        self._texts = tuple(text for text in stop if text and text not in prompts.special)
        # A stop text has at most as many tokens as bytes.
        self.reach = max((len(text.encode()) for text in self._texts), default=0)

    @property
    def looks(self) -> bool:
        """Is there a text to look for?"""
        return bool(self._texts)

    def tail(self, ids: list[int]) -> list[int]:
        """The last tokens, in which a stop text must lie that the newest token completed."""
        return ids[-(self.reach + MARGIN) :]

    def hit(self, text: str) -> bool:
        """Does a stop text stand in it?"""
        return any(stop in text for stop in self._texts)

    def cut(self, text: str) -> str:
        """The text before the first stop text."""
        places = [place for stop in self._texts if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text
