"""Recipes: strict pydantic models read from YAML; errors name the key and the nearest match."""

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from smelt.core.errors import UserError, nearest

MAX_BYTES = 1 << 20
MAX_NODES = 100_000


class Recipe(BaseModel):
    """Base of every recipe: frozen, strict types, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and counts nodes, so that aliases cannot explode."""

    nodes = 0

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise yaml.constructor.ConstructorError(None, None, "too many nodes", node.start_mark)
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if isinstance(key, str) and keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


# YAML 1.1 reads `1e-3` as text, for want of a dot; YAML 1.2 and every reader's eye as a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def _expanded_size(node: yaml.Node, seen: dict[int, int]) -> int:
    """Nodes after alias expansion (an alias bomb is small on disk and huge in memory)."""
    if id(node) in seen:
        if seen[id(node)] == 0:
            raise yaml.constructor.ConstructorError(
                None, None, "an alias inside what it stands for", node.start_mark
            )
        return seen[id(node)]
    seen[id(node)] = 0  # until all below it is counted
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    seen[id(node)] = 1 + sum(_expanded_size(child, seen) for child in children)
    return seen[id(node)]


def read_yaml(path: Path) -> Any:
    """The data of a YAML file. Raises UserError with file, line and column."""
    if not path.is_file():
        raise UserError(path, "no such file", "a YAML recipe", "smelt ls recipe")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(path, f"{path.stat().st_size} bytes", f"at most {MAX_BYTES}")
    try:
        return _construct(path.read_text(encoding="utf-8"), str(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UserError(where, f"not YAML: {getattr(error, 'problem', error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(path, f"not UTF-8 text ({error.reason})", "a YAML recipe") from error
    except RecursionError as error:
        raise UserError(path, "nested too deeply", "a YAML recipe") from error


def _construct(text: str, where: str) -> Any:
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is not None and _expanded_size(node, {}) > MAX_NODES:
        raise UserError(where, "aliases expand to too many nodes", f"at most {MAX_NODES}")
    return None if node is None else loader.construct_document(node)


def override(data: Any, settings: list[str], where: str) -> Any:
    """Apply `key.path=value` settings (values are YAML; list items by index) to recipe data."""
    for setting in settings:
        key_path, separator, text = setting.partition("=")
        if not separator or not key_path:
            raise UserError(f"--set {setting}", "not a setting", "key.path=value")
        keys = key_path.split(".")
        target = data
        for key in keys[:-1]:
            target = _child(target, key, setting)
        try:
            value = _construct(text, f"--set {setting}")
        except (yaml.YAMLError, RecursionError) as error:
            raise UserError(f"--set {setting}", "the value is not YAML") from error
        if isinstance(target, list):
            _child(target, keys[-1], setting)
            target[int(keys[-1])] = value
        elif isinstance(target, dict):
            target[keys[-1]] = value
        else:
            raise UserError(f"--set {setting}", f"'{keys[-1]}' has no parent mapping", where)
    return data


def _child(target: Any, key: str, setting: str) -> Any:
    if isinstance(target, list):
        if not key.isdigit() or int(key) >= len(target):
            raise UserError(f"--set {setting}", f"no item '{key}'", f"0 to {len(target) - 1}")
        return target[int(key)]
    if isinstance(target, dict):
        if not isinstance(target.get(key, {}), dict | list):
            raise UserError(f"--set {setting}", f"'{key}' is not a mapping", "key.path=value")
        return target.setdefault(key, {})
    raise UserError(f"--set {setting}", f"nothing below '{key}'", "key.path=value")


def _in_data(data: Any, location: tuple[int | str, ...], missing: bool) -> tuple[int | str, ...]:
    """A location without the names of union members, which are no keys of the recipe."""
    kept: list[int | str] = []
    current = data
    for place, part in enumerate(location):
        inside = part in current if isinstance(current, dict) else isinstance(current, list)
        if inside and not (isinstance(current, list) and isinstance(part, str)):
            current = current[part]
        elif not (missing and place == len(location) - 1):
            continue
        kept.append(part)
    return tuple(kept)


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def _fields_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the keys that the model at a location takes (to suggest the nearest)."""
    import typing

    current: Any = cls
    for part in location:
        if isinstance(part, str) and isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(part)
            if field is None:
                continue  # a union member's name, not a key
            current = field.annotation
        models = [current]
        while models:
            candidate = models.pop()
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                current = candidate
                break
            models.extend(typing.get_args(candidate))
    if isinstance(current, type) and issubclass(current, BaseModel):
        return [field.alias or name for name, field in current.model_fields.items()]
    return []


def parse(cls: type[AnyRecipe], data: Any, where: str, see: str = "") -> AnyRecipe:
    """A checked recipe. The first error becomes a UserError with key path and nearest match."""
    if not isinstance(data, dict):
        raise UserError(where, f"a {type(data).__name__}", "a mapping of recipe keys", see)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A mistyped key says more than the "missing" or union errors that it causes.
        first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
        location = first["loc"]
        place = f"{where}: {_dotted(_in_data(data, location, first['type'] == 'missing'))}"
        if first["type"] == "extra_forbidden":
            known = _fields_at(cls, location[:-1])
            expected = nearest(str(location[-1]), known)
            raise UserError(place, "unknown key", expected, see) from error
        if first["type"] == "missing":
            raise UserError(place, "missing", "a value", see) from error
        got = first.get("input")
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        found = "invalid" if isinstance(got, dict | list) else f"found {got!r}"
        raise UserError(place, found, message, see) from error
