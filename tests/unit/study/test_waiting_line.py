"""What is waited for is said when nothing else was for two seconds: in place on a terminal, as lines elsewhere."""

from __future__ import annotations

import time
from io import StringIO

import pytest

from study.command_line import waiting
from study.command_line.waiting import WaitingLine


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SILENCE_S", 0.1)
    monkeypatch.setattr(waiting, "_TICK_S", 0.01)


def wait_for_output(stream: StringIO, length: int) -> str:
    deadline = time.monotonic() + 20
    while len(stream.getvalue()) < length:
        assert time.monotonic() < deadline, stream.getvalue()
        time.sleep(0.01)
    return stream.getvalue()


def test_what_is_quick_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SILENCE_S", 60.0)
    for stream in (StringIO(), Terminal()):
        with WaitingLine("the cluster is asked", stream=stream):
            time.sleep(0.1)
        assert stream.getvalue() == ""


def test_a_long_wait_is_said_on_lines_that_become_rarer() -> None:
    stream, started = StringIO(), time.monotonic()
    with WaitingLine("the study ends", stream=stream) as line:
        wait_for_output(stream, 3 * len("the study ends (0 s)\n"))
        assert time.monotonic() - started >= 0.4, "after 0.1, 0.2 and 0.4 s"
        line.say("trials are saving: 2 of 4")
        line.say("trials are saving: 2 of 4")
    lines = stream.getvalue().splitlines()
    assert lines[:3] == ["the study ends (0 s)"] * 3
    assert lines[3] == "trials are saving: 2 of 4", "news is said at once"


def test_on_a_terminal_it_stays_in_its_place_and_leaves_nothing() -> None:
    stream = Terminal()
    with WaitingLine("records come", stream=stream) as line:
        wait_for_output(stream, 10)
        line.hide()
        assert stream.getvalue().endswith("\r\x1b[K")
        before = len(stream.getvalue())
        wait_for_output(stream, before + 10)
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_a_wait_without_end_is_said_on_a_terminal_alone() -> None:
    stream, terminal = StringIO(), Terminal()
    with WaitingLine("nothing new", stream=stream, terminal_only=True) as line:
        with WaitingLine("nothing new", stream=terminal, terminal_only=True):
            wait_for_output(terminal, 10)
        line.say("nothing newer")
    assert stream.getvalue() == ""
    assert "nothing new (" in terminal.getvalue()
