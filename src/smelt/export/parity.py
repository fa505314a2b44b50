"""Proof that an exported file behaves as its source: the same tokens, and the same distributions.

Nothing is published without it. Tokenizers must agree on every text; log-probabilities within a
tolerance that depends on the type of the weights.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from smelt.core import progress
from smelt.core.errors import UserError
from smelt.export import battery
from smelt.export.runtime import Runtime
from smelt.export.vocabulary import CONTROL, NORMAL, USER_DEFINED, Vocabulary

NUM_STEPS = 32
# One step of llama.cpp's answer is JSON of the whole vocabulary (about 100 bytes an id).
MAX_LOGPROBS = 1_000_000
MAX_ADDED = 32
# Below this a float32 softmax holds no more than rounding, on either side.
FLOOR = -15.0


@dataclass(frozen=True)
class Tolerance:
    """Bounds for a type of weights. max_difference: of log-probabilities, in nats."""

    kl: float
    max_difference: float


# f32: both sides compute in float32 and differ in the order of sums only (measured: 5e-5).
# f16: llama.cpp rounds weights and activations to 11 bits (measured: divergence 5e-6, largest
# difference 0.03). q8_0: 8 bits for a block of 32, weights and activations (measured: 7e-4 on
# stories260k, 3e-3 on random weights, which are the worst case); its largest single difference
# is that of one unlikely token and says little, so the divergence decides.
TOLERANCES = {
    "f32": Tolerance(kl=1e-8, max_difference=2e-4),
    "f16": Tolerance(kl=5e-5, max_difference=0.1),
    "q8_0": Tolerance(kl=1e-2, max_difference=math.inf),
}


@dataclass(frozen=True)
class Agreement:
    """Distributions of the file against those of the source, over `positions` of all prompts."""

    prompts: int
    positions: int
    greedy_agreement: float
    """Share of the generated tokens before the first that the source would not have chosen."""
    top1_agreement: float
    kl: float
    """Mean divergence of the file from the source, nats."""
    max_difference: float
    mean_difference: float


def compare_tokenizer(runtime: Runtime, folder: Path, vocabulary: Vocabulary) -> int:
    """The number of texts on which tokenizer.json and the file agree, which is all of them.

    Ids must be equal, and the bytes of the pieces must give the text back.
    Raises UserError with the first text that differs and how many do.
    """
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.no_truncation()
    raw.no_padding()
    added = [
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ][:MAX_ADDED]
    plain = battery.texts(composed=vocabulary.kind.composed)
    texts = [*plain, *battery.texts_with(added)]
    wrong: list[str] = []
    first = ""
    for index, text in enumerate(progress.track(texts, "compare tokenizer", len(texts))):
        wanted = list(raw.encode(text).ids)
        found, pieces = runtime.tokenize(text)
        body = b"".join(pieces[int(vocabulary.add_bos) : len(pieces) - int(vocabulary.add_eos)])
        prefix = b" " if vocabulary.kind.add_space_prefix else b""
        spelled = index >= len(plain) or body == prefix + text.encode()
        if found != wanted or not spelled:
            first = first or f"ids {_show(found)} in llama.cpp, {_show(wanted)} in tokenizer.json"
            wrong.append(text)
    if wrong:
        raise UserError(
            folder / "tokenizer.json",
            f"tokenized otherwise by llama.cpp: {len(wrong)} of {len(texts)} texts, "
            f"the first {wrong[0][:60]!r} ({first})",
            "no difference; nothing was published",
        )
    return len(texts)


def compare_logits(
    runtime: Runtime,
    model: PreTrainedModel,
    prompts: list[list[int]],
    vocabulary: Vocabulary,
    num_steps: int = NUM_STEPS,
) -> Agreement:
    """Greedy continuations by the file, judged by the source at every position.

    The source reads what the file wrote, so each position compares two distributions after the
    same tokens; agreeing at each is writing the same text.
    """
    vocab = len(vocabulary.tokens)
    probe = _ascii_token(vocabulary, runtime.path)
    steps = max(1, min(num_steps, MAX_LOGPROBS // vocab // len(prompts)))
    kls, differences, agreements = [], [], []
    for prompt in progress.track(prompts, "compare logits", len(prompts)):
        written = runtime.generate(prompt, steps)
        if not written:
            raise UserError(runtime.path, "llama.cpp generated nothing", "a continuation")
        ids = [*prompt, *written]
        found = torch.stack(
            [
                _dense(runtime.logprobs(ids[:end], vocab, probe), vocab, runtime.path)
                for end in range(len(prompt), len(ids))
            ]
        )
        wanted = _source_logprobs(model, ids, len(prompt))
        kls.append((wanted.exp() * (wanted - found)).sum(-1))
        differences.append((wanted - found).abs()[wanted > FLOOR])
        agreements.append((wanted.argmax(-1) == torch.tensor(written)).double())
    divergence, difference, agree = torch.cat(kls), torch.cat(differences), torch.cat(agreements)
    return Agreement(
        prompts=len(prompts),
        positions=len(divergence),
        greedy_agreement=float(torch.cat([row.cumprod(0) for row in agreements]).mean()),
        top1_agreement=float(agree.mean()),
        kl=max(0.0, float(divergence.mean())),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
    )


def require(agreement: Agreement, quantize: str, where: object) -> None:
    """Raise UserError when an agreement is outside the tolerance of its type of weights."""
    bound = TOLERANCES[quantize]
    for name, found, most in (
        ("divergence", agreement.kl, bound.kl),
        ("log-probability difference", agreement.max_difference, bound.max_difference),
    ):
        if not found <= most:
            text = f"{name} {found:.2g} from the source model"
            raise UserError(where, text, f"at most {most:g} for {quantize}; nothing was published")


def record(agreement: Agreement, quantize: str) -> dict[str, Any]:
    """An agreement and its bounds for a run record: two digits, and 0 for what is only rounding."""
    bound = TOLERANCES[quantize]
    numbers = vars(agreement) | {
        f"{name}_allowed": most for name, most in vars(bound).items() if math.isfinite(most)
    }
    return {
        name: number if isinstance(number, int) else round(float(f"{number:.2g}"), 9)
        for name, number in numbers.items()
    }


def _ascii_token(vocabulary: Vocabulary, where: Path) -> int:
    for index, token in enumerate(vocabulary.tokens):
        if vocabulary.types[index] == NORMAL and token.isascii() and token.isalnum():
            return index
    raise UserError(
        where, "no token of plain ASCII letters or digits", "one, to read probabilities"
    )


@torch.inference_mode()
def _source_logprobs(
    model: PreTrainedModel, ids: list[int], start: int
) -> Float[Tensor, "steps vocab"]:
    logits: Tensor = model(
        input_ids=torch.tensor([ids[:-1]], device=model.device), use_cache=False
    ).logits[0]
    return logits[start - 1 :].cpu().double().log_softmax(-1)


def _dense(found: dict[int, float], vocab: int, where: Path) -> Float[Tensor, " vocab"]:
    if len(found) != vocab:
        text = f"{len(found)} log-probabilities from llama.cpp"
        raise UserError(where, text, f"{vocab}, one for each id")
    row = torch.empty(vocab, dtype=torch.double)
    row[torch.tensor(list(found))] = torch.tensor(list(found.values()), dtype=torch.double)
    # An unlikely token's probability is 0 in float32, which llama.cpp writes as the lowest float;
    # and its float32 sum is 1 only to seven digits, which would show as a divergence.
    return row.clamp(min=-100.0).log_softmax(-1)


def _show(ids: list[int]) -> str:
    return f"[{', '.join(map(str, ids[:12]))}{', ...' if len(ids) > 12 else ''}]"
