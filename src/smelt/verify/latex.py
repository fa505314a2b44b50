"""LaTeX answers: the last box (or formula) must equal the gold one, by the math-verify library.

Text is compared first, without spacing and styling; words and letters (`\\text{(C)}`) only so.
Everything else goes to math-verify (sympy) in a process of its own, with 8 seconds of CPU time and
4 GiB for each answer. The Unicode minus and thousands separators are understood.
Reasons: `right`, `wrong_answer`, `no_answer`, `timeout`, `too_hard` (memory, or the process died).

>>> score("So we get $\\\\boxed{\\\\frac{2}{4}}$.", "\\\\frac12")
(True, 'right')
>>> score("The answer is $\\\\boxed{x^2+2x}$", "x(x+1)")
(False, 'wrong_answer')
>>> score("It is \\\\boxed{\\\\text{(C)}}.", "C")
(True, 'right')
>>> score("Let me think.", "\\\\frac12")
(False, 'no_answer')
"""

import atexit
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from smelt.core.errors import needs
from smelt.verify._boxed import box

MAX_CHARACTERS = 20_000
# For a machine that does not come to run the worker at all; the worker counts CPU time itself.
WALL_SECONDS = 300.0
_WORKER_FILE = Path(__file__).with_name("_latex_worker.py")
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\uff0d": "-"})
_STYLE = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[!,;: ]|\\q?quad|\\left(?![a-z])|\\right(?![a-z])|~|\s|\$")
_THOUSANDS = re.compile(r"(?<![0-9])([0-9]{1,3}(?:(?:,|,\\!|\{,\})[0-9]{3})+)(?![0-9])")
_STATED = re.compile(r"(?i)\banswer\s+(?:is|would be)\s*:?\s*\$([^$\n]+)\$")
_WORD = re.compile(r"\(?[A-Za-z]{2,}(?:[ -][A-Za-z]+)*\)?|\(?[A-Z]\)?")


def final(text: str) -> str | None:
    """What a text states as its answer: the last box, or the formula after "the answer is"."""
    text = text[-MAX_CHARACTERS:]
    boxed = box(text)
    if boxed is not None:
        return boxed or None
    stated: list[str] = _STATED.findall(text)
    return stated[-1].strip() or None if stated else None


def plain(formula: str) -> str:
    """A formula without spacing, styling and separators of thousands, as texts are compared."""
    formula = formula.translate(_MINUS)
    formula = _THOUSANDS.sub(lambda found: re.sub(r"[^0-9]", "", found[1]), formula)
    formula = _SPACING.sub("", _STYLE.sub(r"\1", formula))
    formula = re.sub(r"\\[dt]frac", r"\\frac", formula)
    formula = re.sub(r"\\frac([0-9])([0-9])", r"\\frac{\1}{\2}", formula)
    return formula.replace("^{\\circ}", "").replace("^\\circ", "").rstrip(".")


def exact(answer: str, gold: str) -> tuple[bool, str]:
    """Is the stated answer the gold text itself, but for spacing and styling?"""
    found = final(answer)
    if found is None:
        return False, "no_answer"
    return (True, "right") if plain(found) == plain(gold) else (False, "wrong_answer")


def score(answer: str, gold: str, prompt: str = "") -> tuple[bool, str]:
    """Is the answer the gold formula? gold: LaTeX, with or without dollar signs.

    Never raises on answers. Raises ValueError for an empty gold formula, UserError where
    math-verify is not installed.
    """
    wanted = gold.strip().strip("$").strip()
    if not wanted:
        raise ValueError("an empty gold answer")
    found = final(answer)
    if found is not None and plain(found) == plain(wanted):
        return True, "right"
    if words := _words(wanted):
        if found is None:
            whole = answer.strip()
            found = whole if len(whole) < 100 and _words(whole) else None
        if found is None:
            return False, "no_answer"
        return (True, "right") if _words(found) == words else (False, "wrong_answer")
    if not answer.strip():
        return False, "no_answer"
    text = f"$\\boxed{{{found}}}$" if found is not None else answer[-MAX_CHARACTERS:]
    reason = _worker.ask(_digits_joined(text), _digits_joined(wanted))
    return reason == "right", reason


def _words(formula: str) -> str:
    """The word or letter that a formula is, in lower case; "" for a formula proper."""
    text = _STYLE.sub(r"\1", formula).strip().strip("$").rstrip(".").strip()
    if not _WORD.fullmatch(text) or (len(text) == 1 and "\\text" not in formula and text > "J"):
        return ""
    return text.strip("()").lower()


def _digits_joined(text: str) -> str:
    text = text.translate(_MINUS).encode("utf-8", "replace").decode("utf-8")
    return re.sub(r"(?<=[0-9])(?:,\\!\s*|\{,\})(?=[0-9])", "", text)


class _Worker:
    """One process of `_latex_worker`, started when it is first asked and again after it died."""

    def __init__(self, cpu_seconds: float = 8.0) -> None:
        self.cpu_seconds = cpu_seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0
        self.lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, answer: str, gold: str) -> str:
        with self.lock:
            process = self._started()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([answer, gold]).encode() + b"\n")
                process.stdin.flush()
                line = self._line(process)
            except BrokenPipeError:
                line = ""
            if line:
                return line
            code = process.wait()
            self.close()
            return "timeout" if code in (-signal.SIGPROF, -signal.SIGKILL) else "too_hard"

    def _started(self) -> "subprocess.Popen[bytes]":
        if self.process is not None and self.owner == os.getpid():
            return self.process
        for package in ("math_verify", "latex2sympy2_extended"):
            if find_spec(package) is None:
                raise needs("eval", "math-verify")
        # -P: the folder of the file, with its code.py and number.py, is no place to import from.
        command = [sys.executable, "-P", str(_WORKER_FILE), str(self.cpu_seconds)]
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=none)
        self.owner = os.getpid()
        if self._line(self.process) != "ready":
            self.close()
            raise needs("eval", "a working math-verify")
        return self.process

    def _line(self, process: "subprocess.Popen[bytes]") -> str:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], WALL_SECONDS)[0]:
            process.kill()
        return process.stdout.readline().decode().strip()

    def close(self) -> None:
        """End the process, if this is the process that started it."""
        if self.process is not None and self.owner == os.getpid():
            process, self.process = self.process, None
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        continue


_worker = _Worker()
