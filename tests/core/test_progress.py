"""Progress: lines in a pipe, bars on a terminal, messages from a worker."""

import contextlib
import os
from collections.abc import Iterator

import pytest

from smelt.core import progress


@pytest.fixture(autouse=True)
def own_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_sink", None)


def test_lines_say_at_once_and_bars_rarely(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    progress.say("hello [x]")
    with progress.Bar("train", 100, done=20) as bar:
        clock[0] = 10.0
        bar.move(5)
        assert capfd.readouterr().err == "hello [x]\n"
        clock[0] = 16.0
        bar.move(5)
        # 30 of 100 in 16 s: 70 more take 16 / 30 * 70 = 37 s.
        assert capfd.readouterr().err == "train: 30/100, 37 s left\n"
        clock[0] = 17.0
        bar.move()
    assert capfd.readouterr().err == ""


def test_a_note_stands_at_the_end_of_the_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.Bar("search", 10) as bar, progress.Bar("other", 10) as other:
        bar.note("best 0.1")
        bar.note("best 0.25, front [7]")
        assert capfd.readouterr().err == ""
        clock[0] = 20.0
        bar.move(5)
        assert capfd.readouterr().err == "search: 5/10, 20 s left, best 0.25, front [7]\n"
        other.move(5)
        assert capfd.readouterr().err == "other: 5/10, 20 s left\n"
    progress.emit(("note", (1, 1), "late"))  # of the dead: ignored


def test_track_gives_the_items_and_ends_its_bar() -> None:
    events: list[progress.Event] = []
    progress.report_to(events.append)
    assert list(progress.track("abc", "letters", 3)) == ["a", "b", "c"]
    assert [event[0] for event in events] == ["start", "move", "move", "move", "end"]
    assert events[0][2:] == ("letters", 3)
    assert {event[1] for event in events} == {events[0][1]}
    assert events[0][1][0] == os.getpid()


def test_a_bar_ends_when_its_body_fails() -> None:
    events: list[progress.Event] = []
    progress.report_to(events.append)
    with pytest.raises(KeyError), progress.Bar("a", 1):
        raise KeyError("x")
    assert [event[0] for event in events] == ["start", "end"]


def read_terminal(leader: int) -> str:
    os.set_blocking(leader, False)
    found = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except (BlockingIOError, OSError):
            return found.decode()
        if not part:
            return found.decode()
        found += part


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    leader, follower = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield leader, follower
    os.close(leader)
    os.close(follower)


@contextlib.contextmanager
def stderr_on(follower: int) -> Iterator[None]:
    """In the test's body, since pytest sets sys.stderr again after the fixtures."""
    with os.fdopen(os.dup(follower), "w") as stream, contextlib.redirect_stderr(stream):
        yield


def test_bars_on_a_terminal_leave_it_clean(terminal: tuple[int, int]) -> None:
    leader, follower = terminal
    with stderr_on(follower), progress.Bar("seed 0", 4) as outer:
        sink = progress._sink
        assert isinstance(sink, progress.Bars)
        with progress.Bar("inner [bold]", 2) as inner:
            inner.move()
            outer.move()
            inner.note("best 0.5 [x]")
            sink.progress.refresh()
            progress.say("a line [not markup]")
    text = read_terminal(leader)
    assert "seed 0" in text
    assert "1/2" in text
    assert "ETA" in text
    assert "best 0.5 [x]" in text
    assert "a line [not markup]" in text
    assert "\x1b[?25l" in text  # the cursor is hidden while bars are drawn
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert not sink.progress.live.is_started


def test_close_takes_away_bars_that_never_ended(terminal: tuple[int, int]) -> None:
    leader, follower = terminal
    with stderr_on(follower):
        sink = progress.Bars()
        progress.report_to(sink)
        progress.emit(("start", (1, 1), "of a stopped worker", 3))
        progress.emit(("start", (2, 1), "another", 3))
        progress.close()
        assert not sink.progress.live.is_started
        assert sink.tasks == {}
        assert "\x1b[?25h" in read_terminal(leader)
        progress.emit(("move", (1, 1), 1))  # late events of the dead are ignored
        progress.emit(("end", (1, 1)))


def test_close_makes_no_sink_and_tells_one_of_ours_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_sink", None)
    progress.close()
    assert progress._sink is None
    heard: list[progress.Event] = []
    progress.report_to(heard.append)
    progress.close()
    assert heard == []


def test_an_interrupt_that_an_import_swallowed_is_raised_at_the_next_step() -> None:
    pressed: list[int] = []
    progress.report_to(lambda event: None)
    progress.watch(pressed)
    try:
        with progress.Bar("work", 2) as bar:
            bar.move()
            pressed.append(2)
            with pytest.raises(KeyboardInterrupt):
                bar.move()
    finally:
        progress.watch([])
