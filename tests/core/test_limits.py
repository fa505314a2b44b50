"""The limit of open files: raised, and told when it is not enough."""

import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from smelt.core import limits
from smelt.core.errors import refusal


@pytest.fixture
def low() -> Iterator[int]:
    """A soft limit of 300, as on some systems; gives the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_files_may_be_open(low: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    limits.allow_open_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(low, 65536), low)
    files = [path.open() for _ in range(400)]
    for file in files:
        file.close()


def test_a_system_that_grants_less_than_it_says(low: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def grudging(which: int, wanted: tuple[int, int]) -> None:
        asked.append(wanted[0])
        if wanted[0] > 10240:
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", grudging)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    limits.allow_open_files()
    assert asked == [65536, 10240]


def test_the_command_line_raises_it(low: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from smelt import cli

    monkeypatch.setattr("sys.argv", ["smelt", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 300


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_are_told(number: int) -> None:
    told = refusal(OSError(number, "Too many open files", "models/a/shard"), "smelt")
    assert str(told).startswith("models/a/shard: too many open files.")
    assert "ulimit -n" in str(told)
