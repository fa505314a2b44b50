"""The smoke test of a new checkpoint: does it load, and does it read a small text like its parents?

The text is ours and fixed: prose, arithmetic and code, 1,200 bytes. It tells a broken model (far
from its parents, or no numbers at all) from a sound one, and says nothing about quality.
"""

from pathlib import Path
from typing import Any

import torch

from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.core.errors import UserError
from smelt.evals.text import likelihood
from smelt.models.load import check_fits, context_length, load_model, pick_device

WORSE_BITS = 1.0
"""A model that needs this many more bits per byte than the worst of its parents is suspect."""
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
"""In messages of torch that have no type of their own: MPS, the CPU, libraries of CUDA."""
TEXTS = [
    "The ferry leaves at seven in the morning and comes back in the evening. Whoever misses it "
    "stays on the island for another night, which is no hardship in summer: the harbour has two "
    "inns, a bakery, and a library in the old customs house. In winter the boat runs twice a week, "
    "and the islanders keep flour, oil and candles for a month, because the ice does not ask.",
    "Question: A baker fills 12 trays with 15 rolls each and sells 143 rolls before noon. How many "
    "are left? Answer: 12 trays of 15 rolls are 12 * 15 = 180 rolls. After noon 180 - 143 = 37 "
    "rolls are left. The answer is 37.",
    "def common_prefix(words: list[str]) -> str:\n"
    '    """The longest text with which all words begin."""\n'
    "    if not words:\n"
    '        return ""\n'
    "    first, last = min(words), max(words)\n"
    "    for place, letter in enumerate(first):\n"
    "        if last[place] != letter:\n"
    "            return first[:place]\n"
    "    return first\n",
    "Proof. Let n be even, so that n = 2k for some integer k. Then n squared is 4k^2 = 2(2k^2), "
    "which is even again. Hence if n squared is odd, n cannot be even, and is therefore odd.",
]


def smoke(model: Path, parents: dict[str, Path], *, device: str = "cpu") -> dict[str, Any]:
    """Bits per byte of the text by the model and each parent, and a verdict in words.

    verdict: "sound", "broken: why", "suspect: why", or "not tested: why" when its parents cannot
    be read either (a network that transformers has no class for, no tokenizer), or when the memory
    of the device does not hold the model.
    """
    try:
        others = {name: _bits(folder, device) for name, folder in parents.items()}
    except (UserError, MemoryError, RuntimeError) as error:
        if not isinstance(error, UserError) and not _is_out_of_memory(error):
            raise
        return {"verdict": f"not tested: {_told(error, device)}"}
    try:
        own = _bits(model, device)
    except (UserError, MemoryError, RuntimeError) as error:
        out_of_memory = _is_out_of_memory(error)
        if not isinstance(error, UserError) and not out_of_memory:
            raise
        kind = "not tested" if out_of_memory else "broken"
        return {"verdict": f"{kind}: {_told(error, device)}", "parents": others}
    worst = max((one["bits_per_byte"] for one in others.values()), default=None)
    verdict = "sound"
    if worst is not None and own["bits_per_byte"] > worst + WORSE_BITS:
        verdict = f"suspect: {own['bits_per_byte']} bits per byte, its worst parent {worst}"
    return {"verdict": verdict, "model": own, "parents": others}


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, here or in what the error was raised from."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return any(
        isinstance(one, MemoryError | torch.OutOfMemoryError)
        or any(mark in str(one) for mark in _OUT_OF_MEMORY)
        for one in causes
    )


def _told(error: BaseException, device: str) -> str:
    return f"out of memory on {device}" if _is_out_of_memory(error) else str(error)


def _bits(folder: Path, device: str) -> dict[str, float]:
    network = load_model(folder, pick_device(device))
    tokenizer = open_tokenizer(folder)
    check_fits(network, tokenizer, str(folder))
    found = likelihood(network, tokenizer, TEXTS, context_length(network), "")
    return {key: found[key] for key in ("bits_per_byte", "perplexity")}
