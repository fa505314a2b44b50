"""The process that runs math-verify for `latex`: a JSON pair a line in, a verdict a line out.

sympy can compute for ever or fill the memory on what a model writes, and math-verify's own limit is
a signal that works in a main thread only. So this is a process of its own that may die: of CPU time
by SIGPROF, of memory by a limit on its address space. It imports nothing else of smelt.
"""

import json
import logging
import resource
import signal
import sys
import warnings

MAX_BYTES = 4 * 2**30


def verdict(answer: str, gold: str) -> str:
    """`right`, `wrong_answer` or `no_answer`; gold is LaTeX without dollar signs."""
    from math_verify import parse, verify

    found = parse(answer, parsing_timeout=None)
    if not found:
        return "no_answer"
    wanted = parse(f"${gold}$", parsing_timeout=None)
    return "right" if verify(wanted, found, timeout_seconds=None) else "wrong_answer"


def main(cpu_seconds: float) -> None:
    """Answer until the input ends; an answer that takes more CPU seconds ends the process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # it warns of limits that are switched off: these are here
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    verdict("$1$", "1")  # everything is imported before the first question is timed
    print("ready", flush=True)
    for line in sys.stdin:
        answer, gold = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            found = verdict(answer, gold)
        except (MemoryError, RecursionError):
            found = "too_hard"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(found, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
