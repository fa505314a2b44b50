"""Recipes: what is wrong, where it stands, and what was probably meant."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from smelt.core import config
from smelt.core.config import Recipe
from smelt.core.errors import UserError


class Inner(Recipe):
    steps: int = Field(gt=0)
    name: str = "x"
    lambda_: float = Field(default=0.0, alias="lambda")


class Outer(Recipe):
    title: str
    inner: Inner | None = None
    items: list[Inner] = Field(default=[])
    table: dict[str, float] = Field(default={})


def error_of(data: Any) -> str:
    with pytest.raises(UserError) as caught:
        config.parse(Outer, data, "r.yaml", "smelt show verb train")
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "place", "expected"),
    [
        ({"titel": "a"}, "r.yaml: titel: unknown key", "'title'"),
        ({"title": "a", "inner": {"stepps": 1}}, "r.yaml: inner.stepps: unknown key", "'steps'"),
        ({"title": "a", "inner": {"lambd": 1}}, "r.yaml: inner.lambd: unknown key", "'lambda'"),
        (
            {"title": "a", "items": [{"steps": 1}, {"steps": 1, "nmae": "y"}]},
            "r.yaml: items[1].nmae: unknown key",
            "'name'",
        ),
        ({}, "r.yaml: title: missing", "a value"),
        ({"title": 3}, "r.yaml: title: found 3", "a valid string"),
        ({"title": "a", "items": [{"steps": 0}]}, "r.yaml: items[0].steps: found 0", "than 0"),
        ({"title": "a", "items": [{"steps": "4"}]}, "r.yaml: items[0].steps: found '4'", "integer"),
        ({"title": "a", "items": {"steps": 1}}, "r.yaml: items: invalid", "a valid list"),
        ({"title": "a", "table": {"k": "v"}}, "r.yaml: table.k: found 'v'", "number"),
        ([1], "r.yaml: a list", "a mapping"),
        (None, "r.yaml: a NoneType", "a mapping"),
    ],
)
def test_errors_name_the_key_path_and_what_was_meant(data: Any, place: str, expected: str) -> None:
    message = error_of(data)
    assert message.startswith(place)
    assert expected in message
    assert message.endswith("Next: smelt show verb train")
    assert "\n" not in message


def test_a_mistyped_required_key_is_named_not_called_missing() -> None:
    assert "'title'" in error_of({"tilte": "a"})


def test_recipes_are_frozen() -> None:
    recipe = config.parse(Outer, {"title": "a"}, "r")
    with pytest.raises(ValueError, match="frozen"):
        recipe.title = "b"  # type: ignore[misc]


def read(tmp_path: Path, text: str | bytes) -> Any:
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return config.read_yaml(path)


def test_yaml_with_anchors_and_merge_keys(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: [*a, *a]\n"
    one = {"x": 1, "y": 2}
    assert read(tmp_path, text) == {"a": one, "b": {"x": 1, "y": 3}, "c": [one, one]}
    assert read(tmp_path, "") is None


BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\na: 2\n", "the key 'a' stands twice"),
        ("x: {b: 1, b: 2}\n", "the key 'b' stands twice"),
        ("a: [1, 2\nb: 3\n", "r.yaml:2:2: not YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "r.yaml:1:4: not YAML"),
        (BOMB, "too many nodes"),
        (b"a: \xff\xfe\n", "not UTF-8"),
        ("#" * (1 << 20) + "\n", "1048577 bytes"),
        ("[" * 20_000, "r.yaml"),
        ("? [a, b]\n: 1\n", "not YAML"),
        ("a: \x00\n", "not YAML"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str | bytes, found: str) -> None:
    with pytest.raises(UserError, match=r"r\.yaml") as caught:
        read(tmp_path, text)
    assert found in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        config.read_yaml(tmp_path / "no.yaml")


def test_overrides() -> None:
    data = {"a": 1, "deep": {"list": [{"x": 1}, {"x": 2}]}}
    changed = config.override(
        data, ["a=2.5", "deep.list.1.x=[1, two]", "new.key=true", "deep.list.0=null"], "r"
    )
    assert changed == {
        "a": 2.5,
        "deep": {"list": [None, {"x": [1, "two"]}]},
        "new": {"key": True},
    }


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("a", "not a setting"),
        ("=1", "not a setting"),
        ("list.3=1", "no item '3'"),
        ("list.x=1", "no item 'x'"),
        ("list.-1=1", "no item '-1'"),
        ("list.0.y=1", "below '0'|no parent"),
        ("a.b=1", "'a' is not a mapping"),
        ("a.b.c=1", "'a' is not a mapping"),
        ("a=[1", "not YAML"),
    ],
)
def test_bad_overrides(setting: str, found: str) -> None:
    with pytest.raises(UserError, match=found) as caught:
        config.override({"a": 1, "list": [1, 2]}, [setting], "r")
    assert f"--set {setting}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("-2E+5", -2e5), (".5e1", 5.0), ("3.e2", 300.0), ("1e", "1e"), ("1_0", 10),
     ("e3", "e3"), ("1e3x", "1e3x"), ("'1e3'", "1e3"), ("08", "08"), ("7", 7)],
)  # fmt: skip
def test_numbers_as_yaml_1_2_reads_them(tmp_path: Path, text: str, value: Any) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"lr: {text}\n")
    found = config.read_yaml(path)["lr"]
    assert (found, type(found)) == (value, type(value))
    assert config.override({}, [f"lr={text}"], "r") == {"lr": value}


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: [*a]}", "&a [*a]"])
def test_an_alias_inside_itself(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"r.yaml:1:.*an alias inside what it stands for"):
        config.read_yaml(path)
    path.write_text("a: &a [1]\nb: [*a, *a]")
    assert config.read_yaml(path) == {"a": [1], "b": [[1], [1]]}
