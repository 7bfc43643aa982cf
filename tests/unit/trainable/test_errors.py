"""The one line of an error that a person is shown."""

from __future__ import annotations

import pytest

from trainable.errors import first_line, last_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such file\nat line 3"), "no such file"),
        (ValueError("\n  first words follow a blank line\n"), "first words follow a blank line"),
        (ValueError(), "ValueError"),
        (MemoryError(" \n"), "MemoryError"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (ValueError("x" * 300), "x" * 200),
    ],
)
def test_an_error_is_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_the_last_line_says_what_happened_after_a_traceback() -> None:
    assert (
        last_line(RuntimeError("Failure # 1\nTraceback:\n  File x\nOSError: No space left\n\n"))
        == "OSError: No space left"
    )
    assert last_line(KeyError()) == "KeyError"
