"""Which content a model folder has, as far as it decides what the model answers."""

from pathlib import Path

from smelt.core import digest

DECISIVE = ("*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "merges.txt", "vocab*")
NOT_DECISIVE = digest.NOT_CONTENT | {"run.json"}


def identity_of(folder: Path, dtype: str) -> str:
    """sha256 of weights, configuration, tokenizer and template of a folder, and the precision."""
    found = {path for pattern in DECISIVE for path in folder.glob(pattern) if path.is_file()}
    files = {path.name: digest.file(path) for path in found if path.name not in NOT_DECISIVE}
    return digest.value([dtype, files])
