"""`smelt ls`: every kind, every name, one line each."""

import pytest

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.verbs.ls import ls


def test_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    ls()
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(rows) == list(registry.KINDS)
    assert "ties" in rows["merge-method"].split(", ")


@pytest.mark.parametrize("kind", list(registry.KINDS))
def test_names_with_their_first_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    ls(kind)
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows == {name: registry.summary(kind, name) for name in registry.names(kind)}


def test_unknown_kind() -> None:
    with pytest.raises(UserError, match="'recipe'"):
        ls("recipes")
