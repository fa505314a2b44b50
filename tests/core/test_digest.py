"""Hashes of files: right, and read once for a large file that did not change."""

import hashlib
import os
from pathlib import Path

import pytest

from smelt.core import digest


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is large enough for a note, two minutes old, and a cache of its own."""
    monkeypatch.setenv("SMELT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digest, "_NOTED_BYTES", 100)
    monkeypatch.setattr(digest, "_SETTLED_SECONDS", 0.0)
    path = tmp_path / "large"
    path.write_bytes(b"a" * 1000)
    return path


def _reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    real, seen = digest._hash, []

    def hashed(path: Path) -> str:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(digest, "_hash", hashed)
    return seen


def test_large_file_is_read_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = _reads(monkeypatch)
    expected = hashlib.sha256(b"a" * 1000).hexdigest()
    assert [digest.file(large) for _ in range(3)] == [expected] * 3
    assert len(reads) == 1


def test_changed_file_is_read_again_even_with_its_old_times(large: Path) -> None:
    before = large.stat()
    first = digest.file(large)
    large.write_bytes(b"b" * 1000)
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest.file(large) != first
    assert digest.file(large) == hashlib.sha256(b"b" * 1000).hexdigest()


def test_another_file_of_the_same_size_and_times_has_its_own_note(large: Path) -> None:
    other = large.with_name("other")
    other.write_bytes(b"c" * 1000)
    state = large.stat()
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert digest.file(large) != digest.file(other)
    assert digest.file(other) == hashlib.sha256(b"c" * 1000).hexdigest()


def test_young_file_leaves_no_note(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_SETTLED_SECONDS", 2.0)
    reads = _reads(monkeypatch)
    digest.file(large)
    digest.file(large)
    assert len(reads) == 2


def test_damaged_note_and_read_only_cache_cost_only_time(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = digest.file(large)
    (note,) = (tmp_path / "cache" / "smelt" / "sha256").iterdir()
    note.write_text("short")
    assert digest.file(large) == first
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SMELT_CACHE", str(tmp_path / "file"))
    assert digest.file(large) == first
