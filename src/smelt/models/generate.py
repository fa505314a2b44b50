"""Greedy text generation in batches. More backends (vLLM, llama.cpp, endpoints) come beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel

from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core import progress
from smelt.core.errors import UserError
from smelt.models.load import context_length


def encode_prompts(tokenizer: TextTokenizer, prompts: list[str]) -> list[list[int]]:
    """Prompts as a model reads them; an empty one still needs one token to start from."""
    lead = tokenizer.lead
    return [[*lead, *ids] or [tokenizer.eos_id] for ids in tokenizer.encode_batch(prompts)]


def require_room(encoded: list[list[int]], max_new_tokens: int, context: int, where: str) -> None:
    """Raise UserError when a prompt with its budget does not fit the context."""
    longest = max((len(ids) for ids in encoded), default=0) + max_new_tokens
    if longest > context:
        found = f"prompt and answer need {longest} tokens"
        raise UserError(where, found, f"at most {context}", "fewer max_new_tokens")


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: TextTokenizer,
    prompts: list[str],
    *,
    max_new_tokens: int,
    batch_size: int = 256,
    label: str = "generate",
) -> list[str]:
    """The greedy continuation of each prompt, up to the end-of-text token or the budget.

    Prompts are sorted by length, so that little is padded; the result is in the given order.
    Raises UserError when a prompt with its budget does not fit the model's context.
    """
    encoded = encode_prompts(tokenizer, prompts)
    require_room(encoded, max_new_tokens, context_length(model), "generate")
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    answers = [""] * len(encoded)
    greedy = cast(Any, GenerationConfig)(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    with progress.Bar(label, len(order)) as bar, _settings(model, greedy):
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            width = max(len(encoded[index]) for index in part)
            ids = torch.full((len(part), width), tokenizer.pad_id)
            mask = torch.zeros((len(part), width), dtype=torch.long)
            for row, index in enumerate(part):
                ids[row, width - len(encoded[index]) :] = torch.tensor(encoded[index])
                mask[row, width - len(encoded[index]) :] = 1
            made = cast(Any, model).generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device)
            )
            for row, index in enumerate(part):
                new = made[row, width:].tolist()
                if tokenizer.eos_id in new:
                    new = new[: new.index(tokenizer.eos_id)]
                answers[index] = tokenizer.decode(new)
            bar.move(len(part))
    return answers


@contextmanager
def _settings(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    # A model's own generation_config (say, a repetition penalty) would be mixed into any other.
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
