"""Networks: Hugging Face folders in and out, fresh ones from a configuration, devices and seeds."""

from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from smelt.checkpoint.folder import copy_tokenizer, write_config
from smelt.checkpoint.layout import layer_of
from smelt.checkpoint.reader import Checkpoint, read_json
from smelt.checkpoint.tokenizer import TextTokenizer
from smelt.core.errors import UserError, nearest

# What transformers raises for a configuration or weights that do not work out.
BAD_MODEL = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError,
    AssertionError, StrictDataclassError,
)  # fmt: skip


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


def _quiet() -> None:
    """No bars and no hints of transformers: progress is shown by smelt, problems are errors."""
    logger = cast(Any, transformers_logging)
    logger.disable_progress_bar()
    logger.set_verbosity_error()


def _reason(error: Exception) -> str:
    """The error on one line (its type, when it says nothing)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def load_model(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A causal language model in evaluation mode. Safetensors only, no remote code.

    dtype: of the weights. Casting a loaded model instead would round what has to stay exact, such
    as the frequencies of rotary positions.

    Raises UserError when the folder holds none, or its files do not fit its configuration: a
    tensor that is missing, of another shape, or in a layer that the configuration does not have.
    """
    _quiet()
    checkpoint = Checkpoint.open(folder)  # bounds, sizes and paths are checked before any read
    try:
        model, facts = cast(Any, AutoModelForCausalLM).from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except BAD_MODEL as error:
        found = f"cannot be loaded ({_reason(error)})"
        raise UserError(folder, found, "a causal language model") from error
    unused = [name for name in facts.get("unexpected_keys") or [] if layer_of(name) is not None]
    for problem, keys in (
        ("missing", facts.get("missing_keys")),
        ("of another shape", facts.get("mismatched_keys")),
        ("not in the configuration", unused),
    ):
        if keys:
            names = ", ".join(sorted(str(key) for key in keys)[:3])
            raise UserError(folder, f"tensors {problem}: {names}", "tensors as in config.json")
    return cast(PreTrainedModel, model.to(device).train(False))


def fresh_config(architecture: dict[str, Any], tokenizer: TextTokenizer) -> PreTrainedConfig:
    """The configuration of a fresh model: `model_type` and any configuration key of transformers.

    Vocabulary size and control tokens come from the tokenizer. Raises UserError.
    """
    keys = dict(architecture)
    kind = keys.pop("model_type", "llama")
    try:
        known = set(AutoConfig.for_model(kind).to_dict())
    except ValueError as error:
        raise UserError(
            "architecture.model_type", f"found '{kind}'", "a transformers type"
        ) from error
    given = {
        "vocab_size": tokenizer.size,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    for key in keys:
        if key in given:
            raise UserError(f"architecture.{key}", "set twice", "the tokenizer alone decides it")
        if key not in known | {"num_key_value_heads", "head_dim"}:
            raise UserError(f"architecture.{key}", "unknown key", nearest(key, sorted(known)))
    if "num_attention_heads" in keys and "num_key_value_heads" in known:
        keys.setdefault("num_key_value_heads", keys["num_attention_heads"])
    try:
        config = AutoConfig.for_model(kind, **keys, **given)
    except BAD_MODEL as error:
        found = f"cannot be built ({_reason(error)})"
        raise UserError("architecture", found, "a valid shape") from error
    return config


def empty_model(config: PreTrainedConfig, where: str) -> PreTrainedModel:
    """The network of a configuration without any weights (on the meta device): to look at only.

    Raises UserError when no such network can be built.
    """
    _quiet()
    try:
        with torch.device("meta"):
            return cast(PreTrainedModel, cast(Any, AutoModelForCausalLM).from_config(config))
    except BAD_MODEL as error:
        found = f"cannot be built ({_reason(error)})"
        raise UserError(where, found, "a causal language model") from error


def read_config(folder: Path | str) -> PreTrainedConfig:
    """The configuration of a model folder. Raises UserError when transformers cannot read it."""
    try:
        found = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except BAD_MODEL as error:
        found = f"cannot be loaded ({_reason(error)})"
        raise UserError(folder, found, "a causal language model") from error
    return cast(PreTrainedConfig, found)


def parse_config(config: dict[str, Any], where: str) -> PreTrainedConfig:
    """What transformers reads in a config.json. Raises UserError for one that it cannot read."""
    _quiet()
    try:
        kind = type(AutoConfig.for_model(config.get("model_type", "")))
    except BAD_MODEL as error:
        found = f"model_type {config.get('model_type')!r}"
        raise UserError(where, found, "a type that transformers knows") from error
    try:
        return kind.from_dict(dict(config))
    except BAD_MODEL as error:
        found = f"cannot be read as a configuration ({_reason(error)})"
        raise UserError(where, found, "a config.json as transformers writes it") from error


def fresh_model(
    architecture: dict[str, Any], tokenizer: TextTokenizer, seed: int
) -> PreTrainedModel:
    """A randomly initialised model in float32; see `fresh_config`. Raises UserError."""
    _quiet()
    config = fresh_config(architecture, tokenizer)
    torch.manual_seed(seed)
    try:
        model = cast(Any, AutoModelForCausalLM).from_config(config)
    except BAD_MODEL as error:
        found = f"cannot be built ({_reason(error)})"
        raise UserError("architecture", found, "a valid shape") from error
    return cast(PreTrainedModel, model.float().train(False))


def network_of(
    config: dict[str, Any],
    names: list[str],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """The network of a config.json, for tensors of these names to be copied into.

    Raises UserError when it cannot be built, or has tensors that are not among the names.
    """
    parsed = parse_config(config, "config.json")
    try:
        model = cast(Any, AutoModelForCausalLM).from_config(parsed, dtype=dtype)
    except BAD_MODEL as error:
        found = f"cannot be built ({_reason(error)})"
        raise UserError("config.json", found, "a causal language model") from error
    tensors = model.state_dict()
    given = {tensors[name].data_ptr() for name in names if name in tensors}
    missing = [name for name, tensor in tensors.items() if tensor.data_ptr() not in given]
    if missing:
        raise UserError("config.json", f"tensors missing: {missing[0]}", "a whole model")
    return cast(PreTrainedModel, model.to(device).train(False))


def save_model(model: PreTrainedModel, tokenizer_folder: Path, folder: Path) -> None:
    """Write a portable checkpoint folder: weights, configuration, tokenizer and chat template."""
    _quiet()
    model.save_pretrained(folder)
    copy_tokenizer(tokenizer_folder, folder)
    write_config(folder, read_json(folder / "config.json"))
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # save_pretrained writes 0600, which no other user can serve


def count_parameters(model: PreTrainedModel) -> int:
    """Number of parameters; a tied head counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def context_of(config: dict[str, Any]) -> int:
    """The longest sequence of tokens that a configuration allows."""
    text = config.get("text_config")
    inner = text.get("max_position_embeddings") if isinstance(text, dict) else None
    limit = config.get("max_position_embeddings", config.get("n_positions", inner))
    return limit if isinstance(limit, int) else 1 << 30


def context_length(model: PreTrainedModel) -> int:
    """The longest sequence of tokens that a model's configuration allows."""
    return context_of(model.config.to_dict())


def check_rows(config: dict[str, Any], tokenizer: TextTokenizer, where: str) -> None:
    """`check_fits` by a config.json, before any weights are read."""
    rows = config.get("vocab_size")
    if isinstance(rows, int) and tokenizer.size > rows:
        raise _misfit(tokenizer, rows, where)


def check_fits(model: PreTrainedModel, tokenizer: TextTokenizer, where: str) -> None:
    """Refuse a tokenizer with more ids than the model has embedding rows."""
    rows = int(cast(Any, model.get_input_embeddings()).weight.shape[0])
    if tokenizer.size > rows:
        raise _misfit(tokenizer, rows, where)


def _misfit(tokenizer: TextTokenizer, rows: int, where: str) -> UserError:
    found = f"tokenizer {tokenizer.folder} has {tokenizer.size} ids, the model {rows} rows"
    return UserError(where, found, "the tokenizer that the model was trained with")
