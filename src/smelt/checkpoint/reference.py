"""How recipes name a model: `path`, `path@revision`, `path+lora`, or mergekit's mapping."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smelt.core.errors import UserError, nearest

FORMS = "path, path@revision, path+lora, or a mapping {model, lora}"


@dataclass(frozen=True)
class ModelReference:
    """A model, at a revision of the hub if one is given, with a LoRA adapter if one is given.

    `str` of it parses back to the same reference.
    """

    path: str
    revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None

    def __str__(self) -> str:
        text = _joined(self.path, self.revision)
        return text if self.lora is None else f"{text}+{_joined(self.lora, self.lora_revision)}"

    def data(self, folders: dict[str, str]) -> Any:
        """The reference as a recipe may write it (text, or a mapping if there is more than a path),
        with other words for those of its paths that are keys of `folders`."""
        model = _data(folders.get(self.path, self.path), self.revision)
        if self.lora is None:
            return model["path"] if self.revision is None else {"model": model}
        lora = _data(folders.get(self.lora, self.lora), self.lora_revision)
        return {"model": model, "lora": lora}


def _data(path: str, revision: str | None) -> dict[str, str]:
    return {"path": path} if revision is None else {"path": path, "revision": revision}


def _joined(path: str, revision: str | None) -> str:
    return path if revision is None else f"{path}@{revision}"


def parse_model_reference(value: Any, where: str = "model") -> ModelReference:
    """The model that a recipe names, as mergekit reads it. Raises UserError with the key path.

    value: text, or a mapping {model: text or {path, revision}, lora: the same}. Folders whose
    names hold '+' or '@' work: a text that is a folder is a path, and so is each part of it.
    """
    if isinstance(value, dict):
        return _from_mapping(value, where)
    text = _text(value, where)
    if _is_folder(text):
        return ModelReference(text)
    model, lora = _split_lora(text, where)
    path, revision = _split_revision(model, where)
    if lora is None:
        return ModelReference(path, revision)
    return ModelReference(path, revision, *_split_revision(lora, where))


def _from_mapping(data: dict[str, Any], where: str) -> ModelReference:
    known = ["model", "lora", "override_architecture"]
    _check_keys(data, known, where)
    if data.get("override_architecture") is not None:
        raise UserError(
            f"{where}.override_architecture", "not supported",
            "no such key: tensors are found by their names, whatever the architecture",
        )  # fmt: skip
    if "model" not in data:
        raise UserError(where, "no 'model' in the mapping", FORMS)
    path, revision = _path(data["model"], f"{where}.model")
    if data.get("lora") is None:
        return ModelReference(path, revision)
    return ModelReference(path, revision, *_path(data["lora"], f"{where}.lora"))


def _path(value: Any, where: str) -> tuple[str, str | None]:
    """A path and revision: mergekit's ModelPath, a text or {path, revision}."""
    if not isinstance(value, dict):
        return _split_revision(_text(value, where), where)
    _check_keys(value, ["path", "revision"], where)
    if "path" not in value:
        raise UserError(where, "no 'path' in the mapping", "{path, revision}")
    path = _text(value["path"], f"{where}.path")
    if value.get("revision") is None:
        return path, None
    return _with_revision(path, _text(value["revision"], f"{where}.revision"), where)


def _check_keys(data: dict[str, Any], known: list[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise UserError(f"{where}.{key}", "unknown key", nearest(str(key), known))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(where, f"found {value!r}", FORMS)
    return value


def _is_folder(text: str) -> bool:
    return bool(text) and Path(text).expanduser().is_dir()


def _split_lora(text: str, where: str) -> tuple[str, str | None]:
    """Model and adapter. With several '+' the cut is the one that leaves a folder on its left."""
    cuts = [place for place, letter in enumerate(text) if letter == "+"]
    if len(cuts) > 1:
        cuts = [place for place in cuts if _is_folder(_before_revision(text[:place]))]
    if not cuts and "+" not in text:
        return text, None
    if len(cuts) != 1 or not text[: cuts[0]] or not text[cuts[0] + 1 :]:
        raise UserError(where, f"cannot tell model and adapter apart in '{text}'", FORMS)
    return text[: cuts[0]], text[cuts[0] + 1 :]


def _before_revision(text: str) -> str:
    return text if _is_folder(text) else text.rpartition("@")[0] or text


def _split_revision(text: str, where: str) -> tuple[str, str | None]:
    if "@" not in text or _is_folder(text):
        return text, None
    path, _, revision = text.rpartition("@")
    if not path or not revision or ("@" in path and not _is_folder(path)):
        raise UserError(where, f"cannot tell path and revision apart in '{text}'", FORMS)
    return _with_revision(path, revision, where)


def _with_revision(path: str, revision: str, where: str) -> tuple[str, str]:
    if _is_folder(path):
        found = f"the local folder '{path}' with revision '{revision}'"
        raise UserError(where, found, "a revision of a hub model only")
    return path, revision
