"""`smelt report` on the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from smelt.core.errors import UserError
from smelt.verbs.report import report
from tests.report.fake import pipeline


def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(report)
    return made


def test_writes_the_page_and_shows_its_command(tmp_path: Path) -> None:
    root, out = pipeline(tmp_path / "my demo", seeds=(0,)), tmp_path / "new" / "page.html"
    result = CliRunner().invoke(app(), [str(root), "--out", str(out)])
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    assert "<h1>my demo</h1>" in text
    assert f"smelt report &#39;{root}&#39; --out {out}" in text


def test_an_empty_folder_is_a_user_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app(), [str(tmp_path), "--out", str(tmp_path / "page.html")])
    assert isinstance(result.exception, UserError)
    with pytest.raises(UserError, match=r"no run\.json"):
        report([tmp_path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_neither_torch_nor_other_floors_are_imported() -> None:
    code = (
        "import sys, smelt.report.page, smelt.report.card, smelt.report.tables\n"
        "smelt.report.page._sections()\n"
        "assert 'torch' not in sys.modules\n"
        "floors = {name.split('.')[1] for name in sys.modules if name.startswith('smelt.')}\n"
        "assert floors == {'core', 'report'}, floors\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
