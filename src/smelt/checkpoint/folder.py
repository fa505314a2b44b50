"""The files around the weights: config, tokenizer, generation settings; portable, readable."""

import json
from pathlib import Path
from typing import Any

from smelt.checkpoint.reader import read_json, refuse_leaving
from smelt.core.errors import UserError

MODEL_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object as transformers does: two spaces, keys sorted, readable by all users."""
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    path.chmod(0o644)


def portable_config(config: dict[str, Any], dtype: str | None = None) -> dict[str, Any]:
    """config.json for transformers 4 and 5 alike: rope_theta at both places, both dtype keys.

    transformers 5 keeps theta in `rope_parameters`; a version 4 reader would silently take 10000.
    dtype: "bfloat16", "float32"..., also for the parts (text_config, vision_config...) that name
    one; None keeps what the config says.
    """
    result = dict(config)
    rope = result.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        result.setdefault("rope_theta", rope["rope_theta"])
    elif "rope_theta" in result and rope is None and not result.get("rope_scaling"):
        result["rope_parameters"] = {"rope_type": "default", "rope_theta": result["rope_theta"]}
    if dtype is not None:
        result["dtype"] = result["torch_dtype"] = dtype
        for key, part in config.items():
            if key.endswith("_config") and isinstance(part, dict):
                result[key] = _with_dtype(part, dtype)
    return result


def _with_dtype(part: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A part of a config, and the parts in it; one that names no type has that of the whole."""
    result = {
        key: _with_dtype(value, dtype)
        if key.endswith("_config") and isinstance(value, dict)
        else value
        for key, value in part.items()
    }
    if "dtype" in part or "torch_dtype" in part:
        result["dtype"] = result["torch_dtype"] = dtype
    return result


def write_config(folder: Path, config: dict[str, Any], dtype: str | None = None) -> None:
    """Write a portable config.json."""
    write_json(folder / "config.json", portable_config(config, dtype))


def copy_files(names: tuple[str, ...], source: Path, target: Path) -> list[str]:
    """Copy those of the named files that exist (mode 0644); gives the names copied.

    Raises UserError for a link that leaves the folder.
    """
    copied = [name for name in names if (source / name).is_file()]
    for name in copied:
        refuse_leaving(source / name)
        (target / name).write_bytes((source / name).read_bytes())
        (target / name).chmod(0o644)
    return copied


def copy_tokenizer(source: Path, target: Path, chat_template: str | None = None) -> None:
    """Copy a tokenizer, loadable by transformers 4 too; `chat_template` replaces its template."""
    copy_files(TOKENIZER_FILES, source, target)
    path = target / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else None
    if chat_template is not None:
        if config is None:
            raise UserError(source, "no tokenizer_config.json", "a tokenizer for the chat_template")
        (target / "chat_template.json").unlink(missing_ok=True)
        (target / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        config["chat_template"] = chat_template
    if config is not None:
        # transformers 4 cannot load the class name that version 5 writes.
        if config.get("tokenizer_class") == "TokenizersBackend":
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_json(path, config)


def copy_side_files(
    source: Path,
    target: Path,
    *,
    tokenizer: Path | None = None,
    chat_template: str | None = None,
) -> None:
    """Copy generation settings of `source` and the tokenizer of `tokenizer` (or of `source`)."""
    copy_files(MODEL_FILES, source, target)
    copy_tokenizer(tokenizer or source, target, chat_template)


def vocabulary(folder: Path) -> dict[str, int] | None:
    """Token -> id of a checkpoint folder's tokenizer.json, with added tokens; None without one."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    data = read_json(path)
    model = data.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    try:
        if isinstance(vocab, list):  # unigram models: [token, score] pairs; the place is the id
            result = {pair[0]: place for place, pair in enumerate(vocab)}
        else:
            result = dict(vocab or {})
        result |= {token["content"]: token["id"] for token in data.get("added_tokens") or []}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _no_vocabulary(path) from error
    sound = all(isinstance(k, str) and isinstance(v, int) for k, v in result.items())
    if not vocab or not sound:
        raise _no_vocabulary(path)
    return result


def _no_vocabulary(path: Path) -> UserError:
    return UserError(path, "no vocabulary in it", "a tokenizer.json of the tokenizers library")
