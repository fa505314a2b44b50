"""What a model's config.json alone tells: its tensors, its size, what running it would cost."""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from huggingface_hub import (
    constants,
    errors,
    get_session,
    hf_hub_url,
    try_to_load_from_cache,
    utils,
)

from smelt.checkpoint.reader import read_json
from smelt.checkpoint.reference import parse_model_reference
from smelt.core import registry
from smelt.core.errors import UserError
from smelt.models.load import empty_model, parse_config

RECORDED = registry.ROOT / "recipes/unconstrained/configs.json"
"""Configurations of the paper's models as we know them, for machines without a hub."""
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# An H100 SXM as its data sheet has it (by bytes of a number), and the share of it that batched
# inference reaches.
FLOPS, BANDWIDTH, MEMORY = {2: 989e12 * 0.4, 4: 67e12 * 0.4}, 3.35e12 * 0.6, 80e9
HUB_SECONDS, CONFIG_BYTES = 10.0, 1 << 20
# What the hub's client raises; its errors are of httpx or httpx2, by its version.
NO_ANSWER = (OSError, cast(Any, errors).HTTPError)
PROMPT_TOKENS, NEW_TOKENS, BATCH = 1000, 256, 64


@dataclass(frozen=True)
class Configured:
    """A model of which only the configuration is known. source: where that came from."""

    folder: Path
    config: dict[str, Any]
    source: str


def find_config(model: Any, where: str) -> Configured:
    """The config.json of a local folder, of the hub, or as we have recorded it, in this order.

    Raises UserError when it is nowhere.
    """
    path = parse_model_reference(model, where).path
    folder = Path(path).expanduser()
    if folder.is_dir():
        return Configured(folder, read_json(folder / "config.json"), "its config.json")
    if (found := _hub_config(path)) is not None:
        return Configured(Path(path), found, "config.json of the hub")
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    if path not in recorded:
        raise UserError(
            where, f"no config.json of {path}, here or on the hub", "a folder or a hub name",
            "check the name; offline only downloaded models and those of the paper are known",
        )  # fmt: skip
    return Configured(Path(path), recorded[path], "recorded with smelt, as no hub is reachable")


@cache
def _hub_answers() -> bool:
    """Is the hub reached? Asked once, so that a machine without a net does not wait for each."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS, follow_redirects=False)
    except NO_ANSWER:
        return False
    return True


def _hub_config(name: str) -> dict[str, Any] | None:
    """A model's config.json from the hub's cache or the hub; None when neither has it (for us: a
    gated model needs a login)."""
    try:
        kept = try_to_load_from_cache(name, "config.json")
        if isinstance(kept, str):
            return read_json(Path(kept))
        if not _hub_answers():
            return None
        found = json.loads(_fetch(hf_hub_url(name, "config.json")))
    except (*NO_ANSWER, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _fetch(url: str) -> bytes:
    """The first CONFIG_BYTES of a page of the hub. Its own client asks, for that one leaves the
    user's token behind where a redirect leads to another host."""
    headers = {**cast(Any, utils).build_hf_headers(), "accept-encoding": "identity"}
    found = bytearray()
    with get_session().stream("GET", url, headers=headers, timeout=HUB_SECONDS) as answer:
        answer.raise_for_status()
        for part in answer.iter_raw():
            found += part
            if len(found) >= CONFIG_BYTES:
                break
    return bytes(found[:CONFIG_BYTES])


def shapes_of(config: dict[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a configuration stands for; no memory is used.

    A head that is the embedding itself is left out. Raises UserError for a bad configuration.
    """
    network = empty_model(parse_config(config, where), where)
    return {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}


def num_parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    """Parameters of a model with these tensors."""
    return sum(map(math.prod, shapes.values()))


def bytes_each(config: dict[str, Any]) -> int:
    """Bytes of a stored parameter."""
    return DTYPE_BYTES.get(str(config.get("torch_dtype", config.get("dtype"))), 4)


def num_cards(parameters: int, width: int) -> int:
    """GPUs that hold a model in numbers of `width` bytes, with a fifth to spare for its caches."""
    return max(1, math.ceil(1.2 * width * parameters / MEMORY))


def answering_hours(
    parameters: int, width: int, items: int, prompt_tokens: int, new_tokens: int
) -> float:
    """GPU-hours of an H100 to answer `items` prompts in numbers of `width` bytes; see `ASSUMED`.

    Prompts cost 2 operations per parameter and token; answers read all weights once a token and
    batch.
    """
    prompts = items * prompt_tokens * 2 * parameters / FLOPS[width]
    answers = math.ceil(items / BATCH) * new_tokens * width * parameters / BANDWIDTH
    return (prompts + answers) / 3600


ASSUMED = f"an H100 in batches of {BATCH}, 40 % of its arithmetic and 60 % of its bandwidth reached"
