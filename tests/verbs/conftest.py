"""The working folder of a verb's tests."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def home(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files of the module's `originals`, which a test may damage."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMELT_CACHE", str(tmp_path / ".cache"))  # answers of no other test
    return tmp_path
