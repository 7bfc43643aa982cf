"""What an exception says, short enough for the one line that a person is shown. Knows nothing of who raised it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class IncompatibleVersionError(ValueError):
    """A whole file in a form that this version cannot use, as a newer version may write: never repaired, never replaced."""


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of the error's message that is not blank, of at most `limit` characters; its class if it says nothing."""
    said = (line.strip() for line in str(error).splitlines())
    return next(filter(None, said), type(error).__name__)[:limit]


def last_line(error: BaseException, limit: int = 200) -> str:
    """The last line of the error's message that is not blank, which says what happened where a traceback stands before it."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return said[-1][:limit] if said else type(error).__name__


def first_problem(error: ValidationError) -> str:
    """The first field that pydantic refuses, and why: "field 'cells.0.label': Input should be a valid string"."""
    found = error.errors(include_url=False)[0]
    place = ".".join(map(str, found["loc"]))
    said = " ".join(str(found.get("ctx", {}).get("error", found["msg"])).split())[:200]
    return f"field {place[:80]!r}: {said}" if place else said
