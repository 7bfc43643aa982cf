"""What an exception says, short enough for the one line that a person is shown. Knows nothing of who raised it."""

from __future__ import annotations


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of the error's message that is not blank, of at most `limit` characters; its class if it says nothing."""
    said = (line.strip() for line in str(error).splitlines())
    return next(filter(None, said), type(error).__name__)[:limit]
