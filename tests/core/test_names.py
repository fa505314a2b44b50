"""Short names of paths: as short as they can be, and no two alike."""

from pathlib import Path

import pytest

from smelt.core.names import short_names


def test_names_are_as_short_as_they_can_be() -> None:
    assert short_names(["a/x/final", "b/x/final", "b/final"]) == {
        "a/x/final": "a/x/final", "b/x/final": "b/x/final", "b/final": "b/final",
    }  # fmt: skip
    assert short_names(["org/one", "two"]) == {"org/one": "one", "two": "two"}


def test_names_do_not_tell_where_the_working_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (tmp_path / "one", tmp_path / "other"):
        (place / "runs").mkdir(parents=True)
        monkeypatch.chdir(place)
        assert short_names(["../final", "final", "runs/../runs/final/"]) == {
            "../final": "../final", "final": "final", "runs/../runs/final/": "runs/final",
        }  # fmt: skip
    assert short_names([".", "runs"]) == {".": "other", "runs": "runs"}
