"""How written answers are read: rules that several benchmarks share, and patterns to read by.

A rule gives a score and a named reason. Rules called as lm-evaluation-harness calls its filters and
metrics (strict-match, flexible-extract, get-answer, custom-extract, em, f1) read as those do.
"""

import re
import string
from collections.abc import Callable, Iterable

from smelt.evals.benchmark import Item, Rule
from smelt.verify import choice, latex, number, phrase, words

NO_MATCH = "no_match"


def number_rule(answer: str, item: Item) -> tuple[float, str]:
    """The last number (of the last box) is the answer, as a value."""
    return _scored(number.score(answer, item.answer))


def letter_rule(answer: str, item: Item) -> tuple[float, str]:
    """The letter that the answer settles on."""
    return _scored(choice.score(answer, item.answer))


def words_rule(answer: str, item: Item) -> tuple[float, str]:
    """The word (yes, no; true, false, uncertain) that the answer settles on."""
    gold = item.choices[item.index] if item.choices else item.answer
    return _scored(words.score(answer, gold))


def phrase_rule(answer: str, item: Item) -> tuple[float, str]:
    """What the answer states last is the gold text, but for case and punctuation."""
    return _scored(phrase.score(answer, item.answer))


def latex_rule(answer: str, item: Item) -> tuple[float, str]:
    """The last box or formula equals the gold one (math-verify)."""
    return _scored(latex.score(answer, item.answer))


def exact_rule(answer: str, item: Item) -> tuple[float, str]:
    """The last box is the gold text, but for spacing and styling."""
    return _scored(latex.exact(answer, item.answer))


def _scored(verdict: tuple[bool, str]) -> tuple[float, str]:
    return float(verdict[0]), verdict[1]


def pattern_rule(pattern: str, *, which: int = 0, clean: Callable[[str], str] = str.strip) -> Rule:
    """The text that a pattern finds (its first group that is not empty; of several finds the
    `which`-th) equals the gold answer, both after `clean`."""
    compiled = re.compile(pattern)

    def rule(answer: str, item: Item) -> tuple[float, str]:
        found = compiled.findall(answer)
        if not found:
            return 0.0, NO_MATCH
        text = found[which]
        if isinstance(text, tuple):
            text = next((part for part in text if part), "")
        right = clean(text.strip()) == clean(item.answer)
        return float(right), "right" if right else "wrong_answer"

    return rule


def plain_number(text: str) -> str:
    """A number as lm-eval's GSM8K compares it: no commas, dollars, `####` and final full stop."""
    text = text.replace(",", "").replace("$", "")
    text = text.rpartition("#### ")[2]
    return re.sub(r"\.$", "", text).lower()


def plain_letter(text: str) -> str:
    """A text without punctuation, in lower case."""
    return text.lower().translate(str.maketrans("", "", string.punctuation))


strict_match = pattern_rule(r"#### (\-?[0-9\.\,]+)", clean=plain_number)
flexible_extract = pattern_rule(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", which=-1, clean=plain_number)
get_answer = pattern_rule(r"(?<=the answer is )(.*)(?=.)", clean=str)
custom_extract = pattern_rule(r"answer is \(?([ABCDEFGHIJ])\)?", clean=plain_letter)

# The bag-of-words measures of DROP (Dua et al. 2019, arXiv:1903.00161, section 5).
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _token(text: str) -> str:
    text = text.lower()
    if not _is_number(text):
        text = "".join(mark for mark in text if mark not in string.punctuation)
    if _is_number(text):
        text = str(float(text))
    return " ".join(_ARTICLES.sub(" ", text).split())


def normal_words(text: str) -> str:
    """A text as DROP compares it: words in lower case without punctuation and articles, numbers
    as floats, one blank between."""
    return " ".join(word for word in map(_token, re.split("[ -]", text)) if word.strip())


def overlap(answer: str, gold: str) -> float:
    """F1 of the word sets of two texts, to two digits; 0 where the gold text has numbers and the
    answer none of them."""
    found, wanted = (set(normal_words(text).split()) for text in (answer, gold))
    numbers = {word for word in wanted if _is_number(word)}
    if numbers and not numbers & found:
        return 0.0
    common = len(found & wanted)
    precision = common / len(found) if found else 1.0
    recall = common / len(wanted) if wanted else 1.0
    total = precision + recall
    return round(2 * precision * recall / total, 2) if total else 0.0


def f1_of(answer: str, golds: Iterable[str]) -> tuple[float, str]:
    """The best overlap with a gold text. Reasons: right, partial, wrong_answer, empty."""
    if not normal_words(answer):
        return 0.0, "empty"
    best = max((overlap(answer, gold) for gold in golds if gold.strip()), default=0.0)
    return best, "right" if best == 1 else "partial" if best else "wrong_answer"


def em_of(answer: str, golds: Iterable[str]) -> tuple[float, str]:
    """Is the answer, as DROP compares texts, one of the gold texts?"""
    found = normal_words(answer)
    if not found:
        return 0.0, "empty"
    right = any(found == normal_words(gold) for gold in golds if gold.strip())
    return float(right), "right" if right else "wrong_answer"
