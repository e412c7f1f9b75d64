"""Progress: one line that moves for people, a line now and then for logs."""

from __future__ import annotations

import io
import sys

import pytest

from guard import terminal
from guard.terminal import Progress, printable


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)
    return clock


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a word, 東京 ≈ \\n", "a word, 東京 ≈ \\n"),
        ("\x1b[2J\r\nwhole: bank\x00\x9b", r"\x1b[2J\r\nwhole: bank\x00\x9b"),
        ("\u202eright to left\u200b\u2028", r"\u202eright to left\u200b\u2028"),
        ("\ud800", r"\ud800"),
    ],
)
def test_a_text_of_a_stranger_stays_on_its_line(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_log_has_the_ends_of_each_step(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        for step in ("scanning", "verifying"):
            for done in range(0, 10_001, 100):
                clock.now += 0.01
                progress(step, done, 10_000)
    assert lines(stream) == [
        "scanning: 0/10,000",
        "scanning: 10,000/10,000",
        "verifying: 0/10,000",
        "verifying: 10,000/10,000",
    ]


def test_log_has_a_line_in_ten_seconds_with_the_time_left(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress("scanning", 0, 100)
        for done in range(1, 101):
            clock.now += 1
            progress("scanning", done, 100)
    assert lines(stream) == [
        "scanning: 0/100",
        *(f"scanning: {done}/100, {100 - done} s left" for done in range(10, 100, 10)),
        "scanning: 100/100",
    ]
    assert "\x1b" not in stream.getvalue()


def test_a_log_line_is_flushed(clock: Clock) -> None:
    """A log is read while the search runs."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8")
    Progress(stream)("scanning", 1, 2)
    assert raw.getvalue()


def test_the_line_moves_on_a_terminal(clock: Clock) -> None:
    stream = Screen()
    with Progress(stream) as progress:
        progress("scanning", 0, 4)
        clock.now += 2
        progress("scanning", 2, 4)
        progress("scanning", 4, 4)
        progress("sifting", 1, 1)
    assert stream.getvalue() == (
        "\r\x1b[Kscanning: 0/4\r\x1b[Kscanning: 2/4, 2 s left\r\x1b[Kscanning: 4/4"
        "\n\r\x1b[Ksifting: 1/1\n"
    )


@pytest.mark.parametrize("stream", [io.StringIO(), Screen()])
def test_no_step_writes_nothing(stream: io.StringIO) -> None:
    with Progress(stream):
        pass
    assert stream.getvalue() == ""


def test_an_error_begins_on_a_line_of_its_own(clock: Clock) -> None:
    stream = Screen()

    def fail() -> None:
        with Progress(stream) as progress:
            progress("scanning", 1, 4)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert stream.getvalue().endswith("\n")


def test_a_step_of_nothing(clock: Clock) -> None:
    stream = io.StringIO()
    Progress(stream)("scanning", 0, 0)
    assert lines(stream) == ["scanning: 0/0"]


def test_progress_goes_to_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not sys.stderr.isatty()
    with Progress() as progress:
        progress("scanning", 1, 1)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "scanning: 1/1\n")
