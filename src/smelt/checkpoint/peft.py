"""PEFT's adapter format: its settings, its tensor names, and which layers store weights transposed.

Written and read here: adapter_config.json and the names in adapter_model.safetensors, as PEFT 0.21
has them; older spellings (an adapter name inside the tensor name) are read too.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from smelt.checkpoint.reader import read_json
from smelt.core import config
from smelt.core.config import Recipe
from smelt.core.errors import UserError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

# Settings under which the adapted model is not `base + scale * B @ A`.
_OTHER_MATHS = (
    "alora_invocation_tokens", "arrow_config", "layer_replication", "monteclora_config",
    "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora",
)  # fmt: skip
# Starting points that also change the base: PEFT repeats that change whenever it loads the adapter.
_CHANGED_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
# transformers.pytorch_utils.Conv1D: a linear layer whose weight is stored as inputs x outputs.
_CONV1D_MODELS = ("gpt2", "imagegpt", "openai-gpt", "decision_transformer", "clvp")
_CONV1D_LAYERS = ("c_attn", "c_proj", "c_fc", "q_attn")

Role = Literal["A", "B", "bias", "embedding_A", "embedding_B", "magnitude", "whole"]
_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<kind>A|B|embedding_A|embedding_B|magnitude_vector)(?P<rest>[^A-Z].*|)"
)
_SAVED = re.compile(r"\.(?:modules_to_save(?:\.(?!weight$|bias$)[^.]+)?|base_layer)(?=\.)")


class LoraSettings(Recipe):
    """What adapter_config.json says about the arithmetic; the rest of it concerns training."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, populate_by_name=True)

    rank: int = Field(default=8, ge=1, alias="r")
    lora_alpha: float = 8
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    base_model_name_or_path: str | None = None

    def rank_of(self, module: str) -> int:
        """The rank of a module, by its name in PEFT (without `base_model.model.`)."""
        key = _first_match(self.rank_pattern or {}, module)
        return self.rank if key is None else (self.rank_pattern or {})[key]

    def scale_of(self, module: str) -> float:
        """What B @ A is multiplied by: alpha / r, with rsLoRA alpha / sqrt(r)."""
        key = _first_match(self.alpha_pattern or {}, module)
        alpha = self.lora_alpha if key is None else (self.alpha_pattern or {})[key]
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def _first_match(patterns: Iterable[str], module: str) -> str | None:
    """The first pattern that fits a module name whole or from a dot on, as PEFT chooses."""
    return next((one for one in patterns if re.match(rf"(.*\.)?({one})$", module)), None)


def read_settings(folder: Path) -> LoraSettings:
    """The settings of an adapter folder. Raises UserError for what is no plain LoRA or DoRA."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(folder, f"no {CONFIG} in it", "a PEFT adapter folder")
    data = read_json(path)
    kind = data.get("peft_type")
    if kind != "LORA":
        raise UserError(path, f"peft_type is {kind!r}", "'LORA'; other adapters are not supported")
    for key in _OTHER_MATHS:
        if data.get(key):
            raise UserError(path, f"'{key}' is set", "a plain LoRA or DoRA adapter")
    start = str(data.get("init_lora_weights")).lower()
    if start.startswith(_CHANGED_BASE):
        raise UserError(
            path, f"init_lora_weights is '{start}', which changes the base too", "a plain LoRA",
            "model.save_pretrained(..., path_initial_model_for_weight_conversion=...) in PEFT",
        )  # fmt: skip
    settings = config.parse(LoraSettings, data, str(path))
    for pattern in [*(settings.rank_pattern or {}), *(settings.alpha_pattern or {})]:
        try:
            re.compile(pattern)
        except re.error as error:
            found = f"the pattern '{pattern}' is no regular expression ({error})"
            raise UserError(path, found) from error
    return settings


@dataclass(frozen=True)
class AdapterName:
    """An adapter tensor's name, taken apart: the module it belongs to and what it is there."""

    module: str
    """PEFT's name of the module; for role "whole" the name of the tensor that it replaces."""
    role: Role
    adapter: str = ""
    """The adapter's name where the tensor name holds one (`lora_A.default.weight`)."""


def parse_name(name: str) -> AdapterName | None:
    """What a tensor of adapter_model.safetensors is; None for a name that LoRA does not write.

    >>> parse_name("base_model.model.h.0.attn.c_attn.lora_A.default.weight")
    AdapterName(module='h.0.attn.c_attn', role='A', adapter='default')
    >>> parse_name("base_model.model.wte.base_layer.weight")
    AdapterName(module='wte.weight', role='whole', adapter='')
    """
    plain = name.removeprefix(PREFIX)
    found = _FACTOR.fullmatch(plain)
    if found is None:
        if "lora_" in plain or ".original_module." in plain or ".token_adapter." in plain:
            return None
        return AdapterName(_SAVED.sub("", plain), "whole")
    kind, rest = found["kind"], found["rest"].split(".")[1:]
    role: Role = "A"
    if kind in ("A", "B"):
        tail = rest.pop() if rest else ""
        if tail not in ("weight", "bias") or (kind, tail) == ("A", "bias"):
            return None
        role = "bias" if tail == "bias" else "A" if kind == "A" else "B"
    elif kind == "magnitude_vector":
        role = "magnitude"
        if rest[-1:] == ["weight"]:
            rest.pop()
    else:
        role = "embedding_A" if kind == "embedding_A" else "embedding_B"
    return AdapterName(found["module"], role, rest[0] if rest else "") if len(rest) < 2 else None


def is_conv1d(model: dict[str, Any], module: str) -> bool | None:
    """Whether a module stores its weight as inputs x outputs, as the Conv1D of GPT-2 does.

    model: the base's config.json. None when the kind of model is not known to have such layers.
    """
    if model.get("model_type") not in _CONV1D_MODELS:
        return None
    return module.rpartition(".")[2] in _CONV1D_LAYERS


def peft_prefix(names: list[str], model: dict[str, Any]) -> str:
    """What PEFT's module names have in front of the checkpoint's: "" unless the checkpoint was
    saved without its head, as the first GPT-2 (`h.0...` for `transformer.h.0...`)."""
    roots = {name.partition(".")[0] for name in names}
    architecture = str((model.get("architectures") or [""])[0])
    if not architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return ""
    return "transformer." if "h" in roots else "model." if "layers" in roots else ""
