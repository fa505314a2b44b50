"""Names of models in recipes, as mergekit reads them, and folders with awkward names."""

from pathlib import Path
from typing import Any

import pytest

from smelt.checkpoint.reference import ModelReference, parse_model_reference
from smelt.core.errors import UserError

R = ModelReference


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("org/model", R("org/model")),
        ("./a/b", R("./a/b")),
        ("org/model@v1", R("org/model", "v1")),
        ("org/model+org/lora", R("org/model", None, "org/lora")),
        ("org/model@v1+org/lora@v2", R("org/model", "v1", "org/lora", "v2")),
        ("org/model+org/lora@v2", R("org/model", None, "org/lora", "v2")),
        ({"model": "a/b"}, R("a/b")),
        ({"model": "a/b@v1", "lora": "c/d@v2"}, R("a/b", "v1", "c/d", "v2")),
        ({"model": {"path": "a/b"}, "lora": None}, R("a/b")),
        (
            {"model": {"path": "a/b", "revision": "v1"}, "lora": {"path": "c/d"}},
            R("a/b", "v1", "c/d"),
        ),
        # A path in a mapping is taken as it is.
        ({"model": {"path": "a@b/c+d", "revision": None}}, R("a@b/c+d")),
        ({"model": "a/b", "override_architecture": None}, R("a/b")),
    ],
)
def test_forms(value: Any, expected: ModelReference) -> None:
    assert parse_model_reference(value) == expected


@pytest.mark.parametrize(
    "text", ["a/b", "a/b@v", "a/b+c/d", "a/b@v+c/d", "a/b+c/d@w", "a/b@v+c/d@w"]
)
def test_text_form_is_read_back(text: str) -> None:
    assert str(parse_model_reference(text)) == text


def test_data_with_other_words_for_folders() -> None:
    words = {"a": "/x/a", "c": "/x/c"}
    for text, data in {
        "a": "/x/a",
        "b/b": "b/b",
        "b/b@v": {"model": {"path": "b/b", "revision": "v"}},
        "a+c": {"model": {"path": "/x/a"}, "lora": {"path": "/x/c"}},
        "b/b@v+c": {"model": {"path": "b/b", "revision": "v"}, "lora": {"path": "/x/c"}},
        "a+d/d@w": {"model": {"path": "/x/a"}, "lora": {"path": "d/d", "revision": "w"}},
    }.items():
        reference = parse_model_reference(text)
        assert reference.data(words) == data
        assert parse_model_reference(reference.data({})) == reference


def test_names_of_folders_may_hold_the_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "a+b", "a@b", "c+d@e+f", "lo+ra"):
        (tmp_path / name).mkdir()
    for name in ("a+b", "a@b", "c+d@e+f"):
        assert parse_model_reference(name) == R(name)
        assert parse_model_reference(f"{name}+lora@v") == R(name, None, "lora", "v")
    assert parse_model_reference("base+lo+ra") == R("base", None, "lo+ra")
    assert parse_model_reference("base+a@b") == R("base", None, "a@b")
    assert parse_model_reference("x/y@v+lora") == R("x/y", "v", "lora")
    full = f"{tmp_path}/c+d@e+f+{tmp_path}/lo+ra"
    assert str(parse_model_reference(full)) == full
    assert parse_model_reference(full).lora == f"{tmp_path}/lo+ra"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("", "found ''"),
        (None, "found None"),
        (3, "found 3"),
        ("a+b+c", "cannot tell model and adapter apart in 'a.b.c'"),
        ("+lora", "cannot tell model and adapter"),
        ("model+", "cannot tell model and adapter"),
        ("a@b@c", "cannot tell path and revision apart"),
        ("@v", "cannot tell path and revision"),
        ("model@", "cannot tell path and revision"),
        ("a/b+lora@", "cannot tell path and revision"),
        ({}, "no 'model'"),
        ({"path": "a/b"}, r"m\.path: unknown key"),
        ({"model": "a/b", "lroa": "c"}, r"m\.lroa: unknown key. Expected 'lora'"),
        ({"model": {"revision": "v"}}, r"m\.model: no 'path'"),
        (
            {"model": {"path": "a", "rev": "v"}},
            r"m\.model\.rev: unknown key. Expected one of: path",
        ),
        ({"model": "a", "override_architecture": "X"}, "override_architecture: not supported"),
    ],
)
def test_refused(value: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse_model_reference(value, "m")


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"local folder .* with revision 'v1'"):
        parse_model_reference(f"{tmp_path}@v1")
