"""Result folders: identity by content, resume, refusal, publication that a kill cannot break."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from smelt.core import run as module
from smelt.core.errors import UserError
from smelt.core.run import Run, read_record


class KilledError(BaseException):
    """Stands for SIGKILL: nothing below catches it."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows").write_text("rows")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(out: str = "out", *, steps: int = 1, seed: int = 0, replace: bool = False) -> Run:
    recipe = {"data": "in/rows", "deep": [{"path": "in/rows"}], "steps": steps}
    return Run(Path(out), "train", recipe, {"data": "in/rows"}, seed=seed, replace=replace)


def finish(run: Run, text: str = "weights") -> None:
    with run:
        (run.folder / "model").write_text(text)
        run.note(metrics={"loss": 1.5})


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_result_and_its_record(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = make()
    assert not run.done
    finish(run)
    assert capfd.readouterr().err == f"train: wrote {home / 'out'}\n"
    assert listing(home) == ["in", "out"]
    assert listing(home / "out") == ["cost.json", "model", "run.json"]
    record = read_record(home / "out")
    assert record["recipe"] == {"data": "in/rows", "deep": [{"path": "in/rows"}], "steps": 1}
    assert record["metrics"] == {"loss": 1.5}
    assert record["inputs"]["data"]["path"] == "in/rows"
    assert str(home) not in (home / "out/run.json").read_text()

    assert make().done
    assert capfd.readouterr().err == "train: out is done\n"


def test_the_key_is_content_not_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make().key
    assert make("elsewhere/deeper").key == key
    moved = home / "moved"
    shutil.copytree(home / "in", moved / "in")
    monkeypatch.chdir(moved)
    assert make().key == key
    recipe = {
        "data": str(moved / "in/rows"),
        "deep": [{"path": str(moved / "in/rows")}],
        "steps": 1,
    }
    assert Run(Path("o"), "train", recipe, {"data": str(moved / "in/rows")}).key == key
    assert make(steps=2).key != key
    assert make(seed=1).key != key
    assert Run(Path("o"), "fuse", recipe, {"data": str(moved / "in/rows")}).key != key
    (moved / "in" / "rows").write_text("other rows")
    assert make().key != key


def test_the_record_of_a_tree_reads_the_same_wherever_it_lies(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(make())
    text = (home / "out/run.json").read_bytes()
    moved = home / "moved"
    shutil.copytree(home / "in", moved / "in")
    path = str(moved / "in/rows")
    recipe = {"data": path, "deep": [{"path": path}], "steps": 1}
    finish(Run(moved / "out", "train", recipe, {"data": path}))
    assert (moved / "out/run.json").read_bytes() == text


def test_a_broken_off_run_resumes_with_the_same_key_and_starts_over_with_another(
    home: Path,
) -> None:
    with pytest.raises(KeyError), make() as run:  # noqa: PT012
        (run.folder / "state").write_text("half")
        (run.folder / "sub").mkdir()
        raise KeyError("x")
    assert listing(home) == ["in", "out.partial"]
    with pytest.raises(KeyError), make() as run:  # noqa: PT012
        assert (run.folder / "state").read_text() == "half"
        assert json.loads((run.folder / "cost.json").read_text())["attempts"] == 2
        raise KeyError("x")
    (home / "out.partial/link").symlink_to(home / "in", target_is_directory=True)
    with make(steps=2) as run:
        assert listing(run.folder) == [".lock", "cost.json", "key"]
    assert json.loads((home / "out/cost.json").read_text())["attempts"] == 1
    assert (home / "in/rows").read_text() == "rows"  # a link is removed, not what it leads to


def test_cost_counts_attempts(home: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), make():
            raise KeyError("x")
    finish(make())
    assert json.loads((home / "out/cost.json").read_text())["attempts"] == 3


def test_one_at_a_time(home: Path) -> None:
    with make(), pytest.raises(UserError, match="another smelt is working in it"), make():
        pass  # pragma: no cover
    assert (home / "out").is_dir()


def test_a_lock_on_a_folder_that_was_just_published_is_no_lock(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process published between our open and our lock."""
    first, real = make(), fcntl.flock

    def late(stream: Any, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        (home / "out.partial").rename(home / "out")
        real(stream, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="another smelt"), first:
        pass  # pragma: no cover


@pytest.mark.parametrize("replace", [False, True])
def test_foreign_folders_are_refused_and_left_alone(home: Path, replace: bool) -> None:
    (home / "out").mkdir()
    (home / "out/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="a folder that is not ours"):
        make(replace=replace)
    (home / "file").write_text("x")
    with pytest.raises(UserError, match="not a folder"):
        make("file", replace=replace)
    (home / "two.partial").mkdir()
    (home / "two.partial/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="a folder that is not ours"), make("two"):
        pass  # pragma: no cover
    assert (home / "out/thesis.txt").is_file()
    assert (home / "two.partial/thesis.txt").is_file()


def test_an_empty_folder_is_taken(home: Path) -> None:
    (home / "out").mkdir()
    finish(make())
    assert listing(home) == ["in", "out"]
    assert make().done


def test_another_result_is_replaced_only_when_asked(home: Path) -> None:
    finish(make())
    with pytest.raises(UserError, match="the result of another recipe"):
        make(steps=2)
    finish(make(steps=2, replace=True), "new")
    assert (home / "out/model").read_text() == "new"
    assert listing(home) == ["in", "out"]


def test_a_foreign_old_folder_is_never_removed(home: Path) -> None:
    finish(make())
    (home / "out.old").mkdir()
    (home / "out.old/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"out\.old: a folder that is not ours"):
        finish(make(steps=2, replace=True), "new")
    assert (home / "out.old/thesis.txt").is_file()
    assert (home / "out/model").read_text() == "weights"
    shutil.rmtree(home / "out.old")
    assert make(steps=2, replace=True).done  # what was complete is published, not done again
    assert (home / "out/model").read_text() == "new"


def kill_at(monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """Die before the count-th change of a name in the file system; returns what was done."""
    done: list[str] = []

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*args: Any, **keywords: Any) -> Any:
            if len(done) == count:
                raise KilledError
            done.append(name)
            return real(*args, **keywords)

        monkeypatch.setattr(owner, name, step)

    wrap(os, "replace")
    for name in ("unlink", "rename", "rmdir"):
        wrap(Path, name)
    return done


@pytest.mark.parametrize("again", ["same", "other"])
@pytest.mark.parametrize("count", range(12))
def test_a_kill_at_any_moment_of_a_replacement_loses_nothing(
    home: Path, count: int, again: str
) -> None:
    finish(make(), "first")
    with pytest.MonkeyPatch.context() as patch:
        run = make(steps=2, replace=True)
        run.__enter__()
        (run.folder / "model").write_text("second")
        done = kill_at(patch, count)
        with contextlib.suppress(KilledError):
            run.__exit__(None, None, None)
        assert len(done) <= count
    if again == "same":
        # The same command ends with the new result, whatever had happened.
        run = make(steps=2, replace=True)
        if not run.done:
            finish(run, "second")
        assert (home / "out/model").read_text() == "second"
    else:
        # Going back to the first recipe: its result is still there, or is made again.
        run = make(replace=True)
        if not run.done:
            finish(run, "first")
        assert (home / "out/model").read_text() == "first"
    assert set(listing(home)) <= {"in", "out", "out.partial"}
    assert listing(home / "out") == ["cost.json", "model", "run.json"]


def test_the_kills_above_reach_every_step(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(make(), "first")
    done = kill_at(monkeypatch, 1000)
    finish(make(steps=2, replace=True), "second")
    assert done.count("rename") == 2
    assert 8 <= len(done) <= 12


def test_a_kill_between_the_renames_keeps_the_old_result(home: Path) -> None:
    finish(make(), "first")
    (home / "out").rename(home / "out.old")
    assert make().done
    assert (home / "out/model").read_text() == "first"
    assert listing(home) == ["in", "out"]


def test_a_complete_partial_never_replaces_a_foreign_folder(home: Path) -> None:
    finish(make())
    (home / "out").rename(home / "out.partial")
    (home / "out").mkdir()
    (home / "out/thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not ours"):
        make(replace=True)
    assert (home / "out/thesis.txt").is_file()
    shutil.rmtree(home / "out")
    assert make().done


class FullDisk:
    """Path.write_text that runs out of space."""

    def __init__(self, name: str) -> None:
        self.name, self.real = name, Path.write_text

    def __call__(self, path: Path, *args: Any, **keywords: Any) -> int:
        if path.name.startswith(self.name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return self.real(path, *args, **keywords)


@pytest.mark.parametrize("name", ["key", "model", "cost.json", "run.json"])
def test_a_full_disk_is_one_clear_error_and_the_same_command_continues(
    home: Path, name: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        full = FullDisk(name)
        patch.setattr(Path, "write_text", lambda *args, **keywords: full(*args, **keywords))
        with pytest.raises(UserError, match="No space left on device") as caught:
            finish(make())
        assert name in str(caught.value)
        assert not (home / "out").exists()
    finish(make())
    assert (home / "out/model").read_text() == "weights"


def test_a_full_disk_as_libraries_in_rust_tell_it(home: Path) -> None:
    with pytest.raises(UserError, match="No space left on device"), make():
        raise RuntimeError("Error while serializing: I/O error: No space left (os error 28)")


def test_defects_stay_defects(home: Path) -> None:
    with pytest.raises(FileNotFoundError), make():
        Path("no such file").read_text()


def test_places_that_cannot_be_written(home: Path) -> None:
    (home / "file").write_text("x")
    with pytest.raises(UserError, match="file"), make("file/out"):
        pass  # pragma: no cover
    with pytest.raises(UserError, match="/proc/"), make("/proc/smelt/out"):
        pass  # pragma: no cover


def test_missing_inputs_and_results_inside_their_input(home: Path) -> None:
    with pytest.raises(UserError, match="train: data: no such file or folder: nowhere"):
        Run(Path("out"), "train", {}, {"data": "nowhere"})
    with pytest.raises(UserError, match="lies in an input"):
        Run(Path("in/out"), "train", {}, {"data": "in"})


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", "\xff"])
def test_damaged_records(home: Path, text: str) -> None:
    (home / "out").mkdir()
    (home / "out/run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"out/run\.json: n"):
        read_record(home / "out")
    with pytest.raises(UserError, match=r"out/run\.json"):
        make()
    with pytest.raises(UserError, match=r"no run\.json in it"):
        read_record(home / "in")


def test_the_name_of_the_record_is_the_modules() -> None:
    assert module.RECORD == "run.json"
