"""Networks: Hugging Face folders in and out, fresh ones from a configuration, devices and seeds."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core.errors import UserError

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


def pick_device(name: str) -> torch.device:
    """The device of a name; `auto` takes an accelerator when there is one."""
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator if accelerator is not None else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError("--device", f"'{name}' cannot be used", "cpu, auto, cuda, mps") from error
    return device


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A causal language model in float32, in evaluation mode. Safetensors only, no remote code.

    Raises UserError when the folder holds none, or its files do not fit its configuration.
    """
    from smelt.checkpoint.reader import Checkpoint

    checkpoint = Checkpoint.open(folder)  # bounds, sizes and paths are checked before any read
    try:
        model, facts = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(folder, f"cannot be loaded ({first})", "a causal language model") from error
    for problem in ("missing_keys", "mismatched_keys"):
        if facts.get(problem):
            names = ", ".join(str(name) for name in sorted(facts[problem])[:3])
            raise UserError(folder, f"{problem.replace('_', ' ')}: {names}", "tensors as in config")
    return model.to(device).eval()


def fresh_model(
    architecture: dict[str, Any], tokenizer: TextTokenizer, seed: int
) -> PreTrainedModel:
    """A randomly initialised model: `model_type` and any configuration key of transformers.

    Vocabulary size and control tokens come from the tokenizer.
    """
    keys = dict(architecture)
    kind = keys.pop("model_type", "llama")
    try:
        config = AutoConfig.for_model(kind)
    except ValueError as error:
        raise UserError("architecture.model_type", f"found '{kind}'", "a transformers type") from error
    known = set(config.to_dict()) | {"num_key_value_heads", "head_dim"}
    for key in keys:
        if key not in known:
            from smelt.core.errors import nearest

            raise UserError(f"architecture.{key}", "unknown key", nearest(key, sorted(known)))
    keys |= {"vocab_size": tokenizer.size, "bos_token_id": tokenizer.bos_id}
    keys |= {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    if "num_attention_heads" in keys:
        keys.setdefault("num_key_value_heads", keys["num_attention_heads"])
    torch.manual_seed(seed)
    try:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **keys))
    except (ValueError, TypeError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError("architecture", f"cannot be built ({first})", "a valid shape") from error
    return model.float().eval()


def save_model(model: PreTrainedModel, tokenizer_folder: Path, folder: Path) -> None:
    """Write a portable checkpoint folder: weights, configuration, tokenizer and chat template."""
    from smelt.checkpoint.folder import copy_tokenizer, write_config

    model.save_pretrained(folder)
    copy_tokenizer(tokenizer_folder, folder)
    write_config(folder, config_of(folder))
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # save_pretrained writes 0600, which no other user can serve


def count_parameters(model: PreTrainedModel) -> int:
    """Number of parameters; a tied head counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def context_length(model: PreTrainedModel) -> int:
    """The longest sequence of tokens the configuration allows."""
    limit = model.config.to_dict().get("max_position_embeddings")
    return limit if isinstance(limit, int) else 1 << 30


def check_fits(model: PreTrainedModel, tokenizer: TextTokenizer, where: str) -> None:
    """Refuse a tokenizer with more ids than the model has embedding rows."""
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.size > rows:
        found = f"tokenizer {tokenizer.folder} has {tokenizer.size} ids, the model {rows} rows"
        raise UserError(where, found, "the tokenizer that the model was trained with")


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a folder (no network is built)."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(folder, "no config.json in it", "a checkpoint folder")
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data
