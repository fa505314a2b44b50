"""Where our scores differ from lm-eval's, and why: the only differences that the parity allows.

The table of docs/lm-eval.md is made of this list, and tests/evals/test_lm_eval_parity.py holds
every disagreement of two verdicts against it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

VERSION = "0.4.13"
Applies = Callable[[str, str, float, float], bool]
"""(the text as both leave it, gold answer, their score, ours) -> is this why they disagree?
For programs the gold answer is the set-up code of the tests."""


@dataclass(frozen=True)
class Difference:
    """One way in which verdicts on the same output, or prompts for the same question, differ.

    benchmark; of: the reading, `stop texts` or `prompt`; topic: what an output has that is read
    differently; example: such an output, and the gold answer.
    """

    benchmark: str
    of: str
    topic: str
    theirs: str
    ours: str
    why: str
    example: str
    gold: str = ""
    applies: Applies | None = None


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace("$", "").strip(" ."))
    except ValueError:
        return None


def _last(text: str) -> str:
    """What lm-eval's flexible-extract takes: its pattern's last find."""
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
    return next((part for part in found[-1] if part), "") if found else ""


def _more(theirs: float, ours: float) -> bool:
    return ours > theirs


def _said(text: str) -> list[str]:
    """What lm-eval's get-answer finds."""
    return [found.strip() for found in re.findall(r"(?<=the answer is )(.*)(?=.)", text)]


def _bare(text: str) -> str:
    """A text without case, styling and punctuation around it."""
    text = re.sub(r"\\boxed\{(.*?)\}", r"\1", text.strip().lower())
    return text.strip(" \n.!?*\"'`()")


def _letters(text: str) -> list[str]:
    """What lm-eval's custom-extract finds."""
    return re.findall(r"answer is \(?([ABCDEFGHIJ])\)?", text)


DIFFERENCES = [
    Difference(
        "bbh", "stop texts", "a capital Q, `</s>`",
        "stops at every capital Q", "stops where the next question begins, at `Q:`",
        "an answer may have a Q (quite, Quebec, option Q of 18); lm-eval cuts it there",
        "Quite so, the answer is (B).", "(B)",
    ),
    Difference(
        "drop", "stop texts", "a full stop, a line break",
        "stops at the first full stop", "stops at the end of the line",
        "a full stop ends every decimal: a model that writes 86.5 is marked wrong",
        " 86.5", "86.5",
    ),
    Difference(
        "mbpp", "job", "a fenced block, words around the program",
        "runs the text as it is", "runs the program of a fence, or from the first line of code",
        "a right program is right inside a fence too; the prompt does not forbid it",
        "```python\ndef f(x):\n    return x\n```", "",
        lambda text, gold, theirs, ours: _more(theirs, ours) and "```" in text,
    ),
    Difference(
        "mbpp", "job", "a `[BEGIN]` of the answer's own",
        "runs it as Python", "runs what stands between `[BEGIN]` and `[DONE]`",
        "the prompt ends in `[BEGIN]`; some models repeat it",
        "[BEGIN]\ndef f(x):\n    return x", "",
        lambda text, gold, theirs, ours: _more(theirs, ours) and "[BEGIN]" in text,
    ),
    Difference(
        "mbpp", "job", "tests with set-up code",
        "leaves test_setup_code out, so no program passes", "runs it before the tests",
        "the data say so (trees and lists to be tested on)",
        "def max_height(node):\n    return 3", "root = Node(1)",
        lambda text, gold, theirs, ours: _more(theirs, ours) and bool(gold),
    ),
    Difference(
        "gsm8k", "number", "a number written otherwise",
        "compares texts: 18.00, 018, 18/1, 18... are not 18",
        "compares values", "the value is the answer", " The answer is 18.00", "18",
        lambda text, gold, theirs, ours: _more(theirs, ours)
        and (_number(_last(text)) == _number(gold) or f"{gold}/1" in text),
    ),
    Difference(
        "gsm8k", "number", "a Unicode minus",
        "does not see U+2212: \u221218 is 18", "reads it as a minus", "it is a minus",
        " The answer is \u221218", "18",
        lambda text, gold, theirs, ours: any(mark in text for mark in "\u2212\u2013"),
    ),
    Difference(
        "gsm8k", "number", "a box before other numbers",
        "takes the last number of the text", "takes the number of the last box",
        "a box is where models are asked to put the answer",
        " \\boxed{18}. I checked 2 ways", "18",
        lambda text, gold, theirs, ours: "\\boxed" in text,
    ),
    Difference(
        "gsm8k", "number", "a power of ten",
        "takes the last digits: 3e3 is 3", "reads 3e3 as 3000", "it is 3000",
        "#### 3e3", "3",
        lambda text, gold, theirs, ours: re.search(r"\de\d", text) is not None,
    ),
    Difference(
        "bbh", "phrase", "the first and a later statement",
        "reads the first `the answer is`", "reads the last statement",
        "models that correct themselves mean the last",
        "the answer is False.\nNow the answer is True.", "True",
        lambda text, gold, theirs, ours: len(_said(text)) > 1,
    ),
    Difference(
        "bbh", "phrase", "an answer stated in other words or marks",
        "wants `the answer is X.` to the letter: case, a full stop, no styling",
        "reads `The answer is`, `answer: X`, a box, bold, quotes, letters without brackets, other "
        "case, an answer that stands alone",
        "zero-shot chat answers rarely have few-shot form; get-answer is reported beside it",
        "The answer is **(B)**", "(B)",
        lambda text, gold, theirs, ours: _more(theirs, ours) and _bare(gold) in _bare(text),
    ),
    Difference(
        "bbh", "phrase", "a mark after the answer",
        "drops any one character after it", "keeps what is no full stop",
        "answers of Dyck words and lists are marks themselves",
        "the answer is ) ] ]!", ") ] ]",
        lambda text, gold, theirs, ours: not _more(theirs, ours) and gold in _said(text),
    ),
    Difference(
        "mmlu_pro", "letter", "the first and a later statement",
        "reads the first `answer is (X)`", "reads the last statement",
        "models that correct themselves mean the last",
        " The answer is (A). No, the answer is (D).", "D",
        lambda text, gold, theirs, ours: len(_letters(text)) > 1,
    ),
    Difference(
        "mmlu_pro", "letter", "a letter stated in other words or marks",
        "wants `answer is X` or `answer is (X)`",
        "reads `Answer: X`, bold, a box, brackets, a letter that stands alone, the option's end",
        "zero-shot chat answers rarely have few-shot form; custom-extract is reported beside it",
        " The answer is **B**.", "B",
        lambda text, gold, theirs, ours: _more(theirs, ours) and not _letters(text),
    ),
    Difference(
        "humaneval, mbpp", "time", "a slow program",
        "3 seconds of wall time", "10 seconds; the comparison gives both 10",
        "a busy machine must not fail right programs", "while True: pass",
    ),
    Difference(
        "drop", "data", "an answer of several spans",
        "compares span by span, and a written answer is one span: it never matches",
        "one text, A and B", "as in OpenAI's simple-evals", " Ada and Tom", "Ada and Tom",
    ),
    Difference(
        "gsm8k, arc_challenge, boolq, winogrande", "prompt", "which examples are shown",
        "draws them for each question (seed 1234)", "the first of the shots split",
        "a model's cache serves all questions with the same examples; the comparison shows the "
        "same to both", "Question: ...",
    ),
    Difference(
        "bbh", "prompt", "the end of a prompt",
        "ends in a line break after `step by step.`, also in sports_understanding",
        "ends after `step by step.`, as in the paper's prompts, and goes on as these do",
        "the paper's files; a model continues with its own line break",
        "A: Let's think step by step.",
    ),
    Difference(
        "mbpp", "prompt", "line ends in the solved examples",
        "`\\r\\n` inside the programs, as on the hub", "`\\n`",
        "an accident of the data; the other line ends of the prompt are `\\n`",
        "def f(x):\n  return x\n[DONE]",
    ),
    Difference(
        "mmlu", "prompt", "blanks at the end of an option",
        "keeps them", "leaves them out", "they are accidents of the data (professional_law)",
        "B. The contract clause. ",
    ),
    Difference(
        "drop", "prompt", "passage and question",
        "passage, a blank and the question, nothing else, zero-shot",
        "`Passage: ...`, `Question: ...`, `Answer:`, three examples",
        "the form of the papers' few-shot figures",
        "Passage: ...\nQuestion: ...\nAnswer:",
    ),
]  # fmt: skip


def normal_prompt(benchmark: str, text: str) -> str:
    """A prompt of lm-eval's with its listed difference taken out."""
    if benchmark == "bbh":
        text = text.removesuffix("\n")
        if "relating to sports" in text:  # its examples go on in the same line in the paper's file
            text = text.replace("step by step.\n", "step by step. ")
        return text
    if benchmark == "mbpp":
        return text.replace("\r\n", "\n")
    if benchmark == "mmlu":
        return re.sub(r"[ \t]+(?=\n[A-D]\. |\nAnswer:)", "", text)
    return text


def table() -> str:
    """The rows of the docs' table."""
    lines = [f"| benchmark | of | what differs | lm-eval {VERSION} | smelt | why | example |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for one in DIFFERENCES:
        example = one.example.replace("\n", "\\n").replace("|", "\\|").replace("`", "'")
        gold = f", gold {one.gold}" if one.gold else ""
        cells = [one.benchmark, one.of, one.topic, one.theirs, one.ours, one.why,
                 f"`{example.strip()}`{gold}"]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
